package volume

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/types"
)

const (
	renewTimeout = 30 * time.Second
	firstRetry   = time.Second
	lastRetry    = time.Minute
	growPoll     = 3 * time.Second // how often images of persistent volumes are looked at
	renewsAtOnce = 16
	busyPoll     = 200 * time.Millisecond // while a pod that has to be renewed is being set up
	idle         = time.Hour
)

// Run renews files when what they come from has changed and tokens before they expire, and grows persistent volumes, until
// ctx ends. Then it ends all watches.
func (v *Volumes) Run(ctx context.Context) error {
	defer v.sources.close()
	timer := v.cfg.Clock.NewTimer(idle)
	defer timer.Stop()
	for ctx.Err() == nil {
		due, wait := v.due()
		v.renewAll(ctx, due)
		if v.claims.inUse() {
			v.claims.grow(ctx)
			wait = min(wait, growPoll)
		}
		if len(due) > 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-v.wake:
		case <-timer.C():
		}
	}
	return nil
}

// due takes out the pods that have to be renewed now, and tells how long no other has. Those that something else is done for
// wait until that is over.
func (v *Volumes) due() (now []types.UID, wait time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := v.cfg.Clock.Now()
	wait = idle
	for uid, p := range v.pods {
		if !p.mu.TryLock() {
			if v.dirty[uid] {
				wait = min(wait, busyPoll)
			}
			continue
		}
		switch {
		case !p.ready || p.gone:
			delete(v.dirty, uid)
		case v.dirty[uid], !p.renew.IsZero() && !at.Before(p.renew):
			delete(v.dirty, uid)
			now = append(now, uid)
		case !p.renew.IsZero():
			wait = min(wait, p.renew.Sub(at))
		}
		p.mu.Unlock()
	}
	return now, wait
}

func (v *Volumes) renewAll(ctx context.Context, due []types.UID) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, renewsAtOnce)
	for _, uid := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			v.renew(ctx, uid)
		})
	}
	wg.Wait()
}

// renew brings the files of one pod up to date.
func (v *Volumes) renew(ctx context.Context, uid types.UID) {
	p := v.known(uid)
	if p == nil {
		return
	}
	if !p.mu.TryLock() {
		v.mu.Lock()
		v.dirty[uid] = v.pods[uid] != nil
		v.mu.Unlock()
		return
	}
	defer p.mu.Unlock()
	if !p.ready || p.gone {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	p.renew = time.Time{}
	err := v.renewFiles(ctx, p, false)
	v.metrics.renewed(err)
	if err == nil {
		p.failures = 0
		return
	}
	p.failures++
	retry := min(firstRetry<<min(p.failures-1, 10), lastRetry)
	if at := v.cfg.Clock.Now().Add(retry); p.renew.IsZero() || at.Before(p.renew) || p.renew.Before(v.cfg.Clock.Now()) {
		p.renew = at
	}
	v.lg.Warn("files of a pod are not renewed", zap.String("pod", p.pod.Namespace+"/"+p.pod.Name), zap.Duration("again in", retry), zap.Error(err))
}
