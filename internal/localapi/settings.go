package localapi

// SettingRegion is the region of a node: the setting that a running node can change.
const SettingRegion = "region"

// Setting is a setting of a running node.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"` // in effect
	Told  string `json:"told"`  // what the node was told; empty: nothing, and it chooses
	Why   string `json:"why"`   // what a choice rests on, or why the two differ
}

// SettingList answers phantom get and phantom set.
type SettingList struct {
	Settings List[Setting] `json:"settings"`
}

// SetRequest changes a setting. An empty value forgets it.
type SetRequest struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}
