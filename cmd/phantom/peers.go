package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) peersVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "the other nodes as this node sees them now",
		Args:  noArgs,
		RunE: action(func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			l, err := c.Peers(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(l)
			}
			a.printPeers(l.Peers)
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}

func (a *app) printPeers(peers []api.Peer) {
	if len(peers) == 0 {
		fmt.Fprintln(a.stdout, "no peers")
		return
	}
	names := map[string]string{}
	for _, p := range peers {
		names[p.ID] = p.Name
	}
	t := a.newTable("NAME", "ADDRESS", "STATE", "PATH", "RTT", "TUNNEL", "POST-QUANTUM", "EPOCH", "RX", "TX")
	for _, p := range peers {
		address := ""
		if len(p.Addresses) > 0 {
			address = p.Addresses[0]
		}
		path := describePath(p.Path)
		if via, ok := names[p.Path.Via]; ok {
			path = "relay " + via
		}
		t.add(p.Name, address, word(p.State), cell{path, stateStyle(p.Path.Kind)}, millis(p.Path.RTTMs), word(p.Tunnel.State),
			postQuantum(p.Tunnel), epoch(p.Tunnel), size(p.Tunnel.RxBytes), size(p.Tunnel.TxBytes))
	}
	t.print(a.stdout)
}

// postQuantum says no only of a tunnel that is up: where nothing travels there is nothing to protect.
func postQuantum(t api.Tunnel) cell {
	switch {
	case t.PostQuantum:
		return word("yes")
	case t.State == localapi.TunnelUp:
		return word("no")
	}
	return cell{}
}

func epoch(t api.Tunnel) string {
	if t.PSKEpoch == 0 {
		return ""
	}
	return fmt.Sprint(t.PSKEpoch)
}

// describePath says the way in the words other tools use: direct ADDRESS, relay NAME. Over UDP goes without saying.
func describePath(p api.Path) string {
	switch p.Kind {
	case localapi.PathDirect:
		if p.Transport == localapi.TransportTCP {
			return "direct " + p.Endpoint + " over TCP"
		}
		return strings.TrimSpace("direct " + p.Endpoint)
	case localapi.PathRelay:
		if p.ViaName != "" {
			return "relay " + p.ViaName
		}
		if p.Via != "" {
			return "relay " + shortID(p.Via)
		}
		return strings.TrimSpace("relay " + p.Endpoint)
	case localapi.PathNone:
		return ""
	}
	return p.Kind
}

func millis(ms float64) string {
	if ms <= 0 {
		return ""
	}
	return number(ms) + " ms"
}

// number keeps three figures or so: more is noise in a round trip.
func number(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

// size writes bytes in binary units, as ls -h does.
func size(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < len("KMGTPE")-1 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[prefix])
}
