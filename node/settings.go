package node

import (
	"context"
	"errors"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// settledLook is the time between two looks at whether a change has arrived.
const settledLook = 20 * time.Millisecond

// Settings tells the settings that a running node can change.
func (n *Node) Settings(context.Context) (*localapi.SettingList, error) {
	m, err := n.membership("tell the settings")
	if err != nil {
		return nil, err
	}
	var self localapi.Self
	m.describeSelf(m.group.State(), &self)
	return &localapi.SettingList{Settings: localapi.List[localapi.Setting]{
		{Key: localapi.SettingRegion, Value: self.Region, Told: m.toldRegion(), Why: self.RegionWhy},
	}}, nil
}

// Set changes a setting, at once and for later runs. What the mesh refuses changes nothing.
func (n *Node) Set(ctx context.Context, r localapi.SetRequest) (*localapi.SettingList, error) {
	what := "cannot set " + r.Key
	m, err := n.membership("set " + r.Key)
	if err != nil {
		return nil, err
	}
	if r.Key != localapi.SettingRegion {
		return nil, localapi.Fail(localapi.Usage, what, errors.New("a running node can change its region only"), "phantom up --"+r.Key+" starts it again with another value")
	}
	if r.Value != "" {
		if err := config.CheckLabel(r.Value); err != nil {
			return nil, localapi.Fail(localapi.Usage, what, err, "")
		}
		ctx, cancel := context.WithTimeout(ctx, decideMax)
		defer cancel()
		if err := m.group.MoveRegion(ctx, r.Value); err != nil {
			return nil, failed(what, err)
		}
		// The answer is to say what is so; the state that says it is on its way.
		for m.group.State().RegionOf(n.ID()) != r.Value && sleep(ctx, settledLook) {
		}
	}
	if err := n.keep(r.Key, r.Value); err != nil {
		return nil, localapi.Fail(localapi.Failed, "the setting holds until the node is stopped, and is not kept", err, "check the space and the permissions of "+n.folder.path)
	}
	m.region.mu.Lock()
	m.region.told, m.region.why = r.Value, ""
	m.region.mu.Unlock()
	signal(m.region.look)
	signal(m.publish)
	return n.Settings(ctx)
}

// keep writes a setting beside those that phantom up was given.
func (n *Node) keep(key, value string) error {
	n.keeping <- struct{}{}
	defer func() { <-n.keeping }()
	name := n.cfg.Settings.SavedFile()
	saved, err := config.ReadSaved(name)
	if err != nil {
		return err
	}
	text, err := config.Format(saved.With(config.Layer{key: {Words: []string{value}}}))
	if err != nil {
		return err
	}
	return n.cfg.Disk.WriteFile(name, text)
}
