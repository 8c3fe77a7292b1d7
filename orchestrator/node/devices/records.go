package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// held are the devices of a container, by resource.
type held map[string]grant

// grant is what a container has of a resource.
type grant struct {
	IDs      []string `json:"ids"`
	Response []byte   `json:"response"` // of the plugin, encoded
}

// records are the file of what was allocated: by pod, container and resource. It is written as a whole.
type records struct {
	Resources []string                      `json:"resources"`
	Pods      map[types.UID]map[string]held `json:"pods"`
}

func readRecords(path string) (records, error) {
	r := records{}
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("devices: %s does not say what was allocated: %w; remove it when no pod of the node has devices", path, err)
	}
	if r.Pods == nil {
		r.Pods = map[types.UID]map[string]held{}
	}
	return r, nil
}

// save writes the file. The caller holds mu.
func (m *Manager) save() error {
	raw, err := json.Marshal(records{Resources: slices.Sorted(maps.Keys(m.kinds)), Pods: m.records})
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	f, err := os.CreateTemp(m.cfg.Dir, ".allocations-")
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), m.path())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("devices: %w", err), os.Remove(f.Name()))
	}
	return nil
}
