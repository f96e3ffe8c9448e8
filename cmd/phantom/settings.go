package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// words collects what a settings flag was given. The table in package config knows what it means.
type words struct {
	key    config.Key
	values []string
	given  bool
}

func (w *words) String() string { return "" }

// Type is what help shows after the flag; a bool shows nothing.
func (w *words) Type() string {
	if w.key.IsSwitch() {
		return "bool"
	}
	return w.key.Value
}

// Set keeps the last value of a flag that takes one, as every command does, and all of a list.
func (w *words) Set(v string) error {
	if !w.key.List {
		w.values = nil
	}
	w.values = append(w.values, v)
	w.given = true
	return nil
}

// settingsFlags are the flags of run, up and join.
type settingsFlags map[string]*words

func addSettings(cmd *cobra.Command) settingsFlags {
	flags := settingsFlags{}
	cmd.Flags().SortFlags = false
	for _, k := range config.Keys {
		if k.Name == "state" {
			continue // every verb has it
		}
		w := &words{key: k}
		flags[k.Name] = w
		f := cmd.Flags().VarPF(w, k.Name, "", k.Usage)
		if k.IsSwitch() {
			f.NoOptDefVal = "true"
		}
	}
	return flags
}

// layer gives the flags that were given.
func (f settingsFlags) layer() config.Layer {
	l := config.Layer{}
	for name, w := range f {
		if w.given {
			l[name] = w.key.Flag(w.values)
		}
	}
	return l
}

// badSettings makes a failure of a settings error: the words are wrong wherever they stand, but only those on the command line are helped
// by its usage.
func badSettings(err error) error {
	return localapi.Fail(localapi.Usage, "cannot use the settings", err, "")
}

// fileLayer reads the configuration file: the one that was named, or the default one if it is there.
func (a *app) fileLayer() (config.Layer, error) {
	name := a.configFile
	if name == "" {
		name = os.Getenv("PHANTOM_CONFIG")
	}
	if name != "" {
		l, err := config.ReadFile(name)
		if err != nil {
			return nil, badSettings(err)
		}
		return l, nil
	}
	l, err := config.ReadFile(config.DefaultFile)
	if errors.Is(err, fs.ErrNotExist) {
		return config.Layer{}, nil
	}
	if err != nil {
		return nil, badSettings(err)
	}
	return l, nil
}

func (a *app) stateLayer() config.Layer {
	if !a.state.given {
		return config.Layer{}
	}
	k, _ := config.Lookup("state")
	return config.Layer{"state": k.Flag(a.state.values)}
}

// clientSettings are the settings of a verb that only asks: of them all it needs the state folder. A default file it may not read is no
// reason to fail.
func (a *app) clientSettings() (config.Settings, error) {
	file, err := a.fileLayer()
	if err != nil && !(errors.Is(err, fs.ErrPermission) && a.configFile == "") {
		return config.Settings{}, err
	}
	only := func(l config.Layer) config.Layer {
		if raw, ok := l["state"]; ok {
			return config.Layer{"state": raw}
		}
		return config.Layer{}
	}
	s, err := config.Resolve(config.Defaults(), a.stateLayer(), only(config.Environment(os.Getenv)), only(file))
	if err != nil {
		return config.Settings{}, badSettings(err)
	}
	return s, requireState(s)
}

func requireState(s config.Settings) error {
	if s.State != "" {
		return nil
	}
	return &localapi.Failure{Class: localapi.Usage, What: "there is no state folder", Why: "this user has no home folder",
		Next: "name one with --state DIR or PHANTOM_STATE"}
}

// nodeSettings are the settings of a node that is about to start, and what earlier phantom up left in the state folder.
func (a *app) nodeSettings(flags config.Layer) (s config.Settings, saved config.Layer, err error) {
	base, err := a.clientSettings()
	if err != nil {
		return s, nil, err
	}
	file, err := a.fileLayer()
	if err != nil {
		return s, nil, err
	}
	saved, err = config.ReadSaved(base.SavedFile())
	if errors.Is(err, fs.ErrPermission) {
		return s, nil, localapi.Fail(localapi.Failed, "cannot read the state folder", err, "run the command as the user who owns it, or as root")
	}
	if err != nil {
		return s, nil, localapi.Fail(localapi.Failed, "cannot read the settings kept by phantom up", err, "")
	}
	s, err = config.Resolve(config.Defaults(), flags, config.Environment(os.Getenv), saved, file)
	if err != nil {
		return s, nil, badSettings(err)
	}
	s.State = base.State
	return s, saved, nil
}
