//go:build linux

package runtime

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// inject adds the devices of a container that are named as in the Container Device Interface: what their vendors' files say of
// device files, variables, mounts and hooks. The files are read each time, as vendors write them when they like.
func (m *machine) inject(s *specs.Spec, devices []*runtimeapi.CDIDevice) error {
	if len(devices) == 0 {
		return nil
	}
	var names []string
	for _, d := range devices {
		names = append(names, d.Name)
	}
	known, err := cdi.NewCache(cdi.WithSpecDirs(m.cfg.CDIDirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("CDI: %w", err)
	}
	missing, err := known.InjectDevices(s, names...)
	switch {
	case len(missing) > 0: // files that cannot be read may be why
		return errors.Join(fmt.Errorf("CDI: no file in %v describes %v", m.cfg.CDIDirs, missing), known.Refresh())
	case err != nil:
		return fmt.Errorf("CDI: %w", err)
	}
	return nil
}
