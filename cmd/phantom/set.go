package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

func (a *app) setVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set KEY=VALUE...",
		Short: "change settings of the running node, and keep them",
		Long: "Changes a setting of the running node without a restart, and for later runs. That can be region; an empty value\n" +
			"(region=) forgets it, and the node chooses. Other settings need a restart: phantom up with their flags.",
		Args: cobra.MinimumNArgs(1),
		RunE: action(func(cmd *cobra.Command, args []string) error {
			var requests []api.SetRequest
			for _, arg := range args {
				key, value, ok := strings.Cut(arg, "=")
				if !ok {
					return wrongUsage("%q is not KEY=VALUE", arg)
				}
				if err := settable(key); err != nil {
					return err
				}
				value = strings.ToLower(value)
				if err := config.CheckLabel(value); value != "" && err != nil {
					return wrongUsage("region %q: %v", value, err)
				}
				requests = append(requests, api.SetRequest{Key: key, Value: value})
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			var list *api.SettingList
			for _, r := range requests {
				if list, err = c.Set(cmd.Context(), r); err != nil {
					return err
				}
			}
			return a.printSettings(list, "")
		}),
	}
	return a.jsonFlag(cmd)
}

// settable tells why a key cannot be set here.
func settable(key string) error {
	if key == localapi.SettingRegion {
		return nil
	}
	if k, ok := config.Lookup(key); ok {
		return wrongUsage("%s cannot be changed while the node runs: phantom up --%s starts it again", k.Name, k.Name)
	}
	return wrongUsage("no setting is called %q: phantom get lists those that can be changed", key)
}

func (a *app) getVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get [KEY]",
		Short: "the settings that a running node can change",
		Args:  cobra.MaximumNArgs(1),
		RunE: action(func(cmd *cobra.Command, args []string) error {
			key := ""
			if len(args) > 0 {
				if key = args[0]; key != localapi.SettingRegion {
					return wrongUsage("no setting is called %q: phantom get lists those that can be changed", key)
				}
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Settings(cmd.Context())
			if err != nil {
				return err
			}
			return a.printSettings(list, key)
		}),
	}
	return a.jsonFlag(cmd)
}

// printSettings prints all settings, or the value of one for scripts.
func (a *app) printSettings(list *api.SettingList, key string) error {
	if a.json {
		return a.printJSON(list)
	}
	for _, s := range list.Settings {
		switch {
		case key != "":
			fmt.Fprintln(a.stdout, printable(s.Value))
		case s.Told == "":
			fmt.Fprintf(a.stdout, "%s  %s  (chosen: %s)\n", s.Key, printable(s.Value), printable(orElse(s.Why, "it has just begun to look")))
		case s.Told != s.Value:
			fmt.Fprintf(a.stdout, "%s  %s  (%s)\n", s.Key, printable(s.Value), printable(s.Why))
		default:
			fmt.Fprintf(a.stdout, "%s  %s\n", s.Key, printable(s.Value))
		}
	}
	return nil
}
