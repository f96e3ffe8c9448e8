package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
)

func (a *app) versionVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "what this binary was built from",
		Args:  noArgs,
		RunE: action(func(*cobra.Command, []string) error {
			v := buildVersion()
			if a.json {
				return a.printJSON(v)
			}
			commit := ""
			if v.Commit != "" {
				commit = " commit " + v.Commit
			}
			fmt.Fprintf(a.stdout, "phantom %s%s (%s %s/%s)\n", v.Version, commit, v.Go, v.OS, v.Arch)
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}

// buildVersion is the stamp of the build, completed by what the compiler noted.
func buildVersion() api.Version {
	v := api.Version{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Date = s.Value
		}
	}
	if v.Version == "unknown" && info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	return v
}
