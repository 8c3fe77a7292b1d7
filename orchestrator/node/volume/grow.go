package volume

import (
	"context"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sizePoll is how often the API server is asked how large volumes in use should be.
const sizePoll = 9 * time.Second

func (c *claims) inUse() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.active) > 0
}

// grow makes all volumes in use as large as they should be.
func (c *claims) grow(ctx context.Context) {
	c.mu.Lock()
	all := make([]*claimed, 0, len(c.active))
	for _, a := range c.active {
		all = append(all, a)
	}
	c.mu.Unlock()
	for _, a := range all {
		if ctx.Err() != nil {
			return
		}
		c.growOne(ctx, a)
	}
}

// growOne is called by Run only, which alone changes checked and refused.
func (c *claims) growOne(ctx context.Context, a *claimed) {
	if a.req.ReadOnly {
		return
	}
	var pv *corev1.PersistentVolume
	req := a.req
	if now := c.cfg.Clock.Now(); now.Sub(a.checked) >= sizePoll {
		a.checked = now
		var err error
		if pv, err = c.cfg.Client.CoreV1().PersistentVolumes().Get(ctx, a.req.Name, metav1.GetOptions{}); err != nil {
			c.lg.Debug("the size of a volume", zap.String("volume", a.req.Name), zap.Error(err))
			return
		}
		size := pv.Spec.Capacity[corev1.ResourceStorage]
		req.Size = max(req.Size, size.Value())
	}
	grown, err := c.growLocked(ctx, req)
	c.mu.Lock()
	a.req.Size = req.Size
	c.mu.Unlock()
	switch {
	case err != nil && a.refused < req.Size:
		a.refused = req.Size
		c.lg.Warn("a volume does not grow", zap.String("volume", a.req.Name), zap.Error(err))
		c.cfg.Events.Eventf(a.pod, corev1.EventTypeWarning, "VolumeResizeFailed", "NodeExpandVolume failed for volume %q : %v", a.req.Name, err)
	case grown:
		c.cfg.Events.Eventf(a.pod, corev1.EventTypeNormal, "FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume %q", a.req.Name)
	}
	if err == nil && pv != nil {
		if err := c.settle(ctx, a.claim, pv); err != nil {
			c.lg.Debug("the status of a claim", zap.Stringer("claim", a.claim), zap.Error(err))
		}
	}
}

// growLocked grows one volume, if it is still in use.
func (c *claims) growLocked(ctx context.Context, r Request) (bool, error) {
	defer c.lock(r.Name)()
	c.mu.Lock()
	_, used := c.active[r.Name]
	c.mu.Unlock()
	plugin := c.plugin(r.Driver)
	if !used || plugin == nil {
		return false, nil
	}
	target := ""
	if !r.Block {
		target = c.target(r)
	}
	return plugin.Grow(ctx, r, target)
}
