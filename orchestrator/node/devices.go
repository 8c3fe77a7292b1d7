package node

import (
	"cmp"
	"errors"
	"path/filepath"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/node/devices"
)

// openDevices makes what hands devices of plugins to pods. Where no socket can be there are no devices.
func (a *Agent) openDevices() (err error) {
	a.devices, err = devices.New(devices.Config{
		Dir: cmp.Or(a.cfg.DevicePlugins, filepath.Join(a.cfg.Dir, "device-plugins")), Known: a.mayHave, Clock: a.cfg.Clock, Logger: a.cfg.Logger.Named("devices"),
	})
	if errors.Is(err, devices.ErrTooLong) && a.cfg.DevicePlugins == "" {
		a.cfg.Logger.Warn("device plugins are not served", zap.Error(err))
		a.devices, err = nil, nil
	}
	return err
}

// mayHave is whether the node has a pod, or may have it: as long as not all are known.
func (a *Agent) mayHave(uid types.UID) bool {
	p := a.known.Load()
	return p == nil || p.workers.MayHave(uid)
}

// countDevices are the devices of the node, and those that are healthy.
func (a *Agent) countDevices() (capacity, allocatable corev1.ResourceList) {
	if a.devices == nil {
		return nil, nil
	}
	return a.devices.Resources()
}
