package framework

// StateData is what a plugin keeps during one attempt.
type StateData interface {
	// Clone returns a copy that AddPod and RemovePod may change without touching the original.
	Clone() StateData
}

// StateKey names a plugin's data: by convention the name of the extension point and of the plugin.
type StateKey string

type stateEntry struct {
	key  StateKey
	data StateData
}

// CycleState holds the data of one attempt. There are a handful of entries, so that a scan beats a map.
type CycleState struct {
	entries []stateEntry
}

// NewCycleState makes an empty one.
func NewCycleState() *CycleState { return &CycleState{entries: make([]stateEntry, 0, 16)} }

// Read returns nil if nothing was written under the key.
func (c *CycleState) Read(key StateKey) StateData {
	for i := range c.entries {
		if c.entries[i].key == key {
			return c.entries[i].data
		}
	}
	return nil
}

// Write replaces what is there.
func (c *CycleState) Write(key StateKey, data StateData) {
	for i := range c.entries {
		if c.entries[i].key == key {
			c.entries[i].data = data
			return
		}
	}
	c.entries = append(c.entries, stateEntry{key, data})
}

// Clone copies every entry.
func (c *CycleState) Clone() *CycleState {
	n := &CycleState{entries: make([]stateEntry, len(c.entries), cap(c.entries))}
	for i, e := range c.entries {
		n.entries[i] = stateEntry{e.key, e.data.Clone()}
	}
	return n
}

// Data reads an entry of a known type; the zero value if it is absent.
func Data[T StateData](c *CycleState, key StateKey) T {
	d, _ := c.Read(key).(T)
	return d
}
