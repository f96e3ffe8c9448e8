package main

import (
	"context"
	"os"
)

// version is stamped by the build: -ldflags "-X main.version=…".
var version = "unknown"

func main() {
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
