package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: wgplain NAME MTU < configuration")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "wgplain:", err)
		os.Exit(1)
	}
}

func run(name, size string) error {
	mtu, err := strconv.Atoi(size)
	if err != nil {
		return fmt.Errorf("MTU: %w", err)
	}
	config, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	link, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return fmt.Errorf("making TUN device %s: %w", name, err)
	}
	wg := device.NewDevice(link, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "wgplain: "))
	defer wg.Close()
	if err := wg.IpcSet(string(config)); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := wg.Up(); err != nil {
		return err
	}
	fmt.Println("up")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
	return nil
}
