//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// recovery takes up what is on the machine when a runtime is opened.
type recovery struct {
	m          *machine
	sandboxes  *sandboxes
	containers *containers
}

// run takes up the records, and then removes what has none.
func (r *recovery) run(ctx context.Context) error {
	pods, damagedPods, err := r.m.pods.read()
	if err != nil {
		return err
	}
	tasks, damagedTasks, err := r.m.tasks.read()
	if err != nil {
		return err
	}
	for _, id := range append(damagedPods, damagedTasks...) {
		r.m.log.Warn("runtime: a record cannot be read, what it stood for is removed", zap.String("id", id))
	}
	of := map[string][]*container{}
	for id, rec := range tasks {
		if rec.Config.v == nil || pods[rec.Sandbox] == nil {
			continue // removed below, as all that has no record
		}
		c := &container{id: id, rec: *rec, exited: make(chan struct{})}
		if rec.Run.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			close(c.exited)
		}
		of[rec.Sandbox] = append(of[rec.Sandbox], c)
	}
	var g errgroup.Group
	g.SetLimit(measuring)
	for id, rec := range pods {
		if rec.Config.v == nil {
			continue
		}
		s := &sandbox{id: id, rec: *rec}
		g.Go(func() error { return r.take(ctx, s, of[id]) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := r.sweep(ctx, tasks); err != nil {
		r.m.log.Error("runtime: what is left without a record could not all be removed", zap.Error(err))
	}
	return nil
}

// take takes up a sandbox with its containers. What cannot be cleaned up stays, not ready, and is named in the log.
func (r *recovery) take(ctx context.Context, s *sandbox, containers []*container) error {
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := r.m.table.reserve("sandbox", sandboxName(s.rec.Config.v.Metadata), s.id); err != nil {
		return err
	}
	r.m.table.addSandbox(s)
	for _, c := range containers {
		c.sandbox = s
		if err := r.m.table.reserve("container", containerName(c.rec.Config.v.Metadata, s.id), c.id); err != nil {
			return err
		}
		r.m.table.addContainer(c)
	}
	if err := r.connect(ctx, s); err != nil {
		s.mu.Lock()
		s.rec.Reason = "what was left of it could not be taken up"
		s.mu.Unlock()
		r.m.log.Error("runtime: a sandbox could not be taken up", zap.String("sandbox", s.id), zap.Error(err))
	}
	for _, c := range containers {
		if c.record().Phase == made {
			continue
		}
		if err := r.containers.remove(ctx, c); err != nil {
			r.m.log.Error("runtime: a container that was half made or half removed could not be removed", zap.String("container", c.id), zap.Error(err))
		}
	}
	return nil
}

// connect finds the shim of a sandbox and follows it, or ends the sandbox if that was not made or its shim is gone.
func (r *recovery) connect(ctx context.Context, s *sandbox) error {
	phase := s.rec.Phase
	if phase == ended {
		return nil
	}
	if phase == made {
		client, err := r.find(ctx, s)
		if err == nil {
			s.mu.Lock()
			s.shim = client
			s.mu.Unlock()
			if err := r.sandboxes.follow(s, client); err != nil {
				return err
			}
			if err := r.sandboxes.catchUp(ctx, client); err != nil {
				return err
			}
			return r.unstarted(ctx, s, client)
		}
		s.mu.Lock()
		s.rec.Reason = "its shim is gone"
		s.mu.Unlock()
	}
	if err := r.sandboxes.end(ctx, s); err != nil {
		return err
	}
	if phase == making {
		return r.sandboxes.forget(s)
	}
	return nil
}

// find connects to the shim of a sandbox. One that was made answers, unless it is just dying, or hangs: then it is given up.
func (r *recovery) find(ctx context.Context, s *sandbox) (client shimClient, err error) {
	for end := r.m.clock.Now().Add(findPatience); ; {
		if client, err = r.m.shims.connect(ctx, r.m.shimDir(s.id)); err == nil || errors.Is(err, shim.ErrGone) {
			return client, err
		}
		if r.m.clock.Now().After(end) {
			r.m.log.Error("runtime: the shim of a sandbox does not answer and is given up", zap.String("sandbox", s.id), zap.Error(err))
			return nil, err
		}
		pause := r.m.clock.NewTimer(50 * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		case <-pause.C():
		}
	}
}

// findPatience is for how long a shim may not answer when a runtime is opened.
const findPatience = 5 * time.Second

// unstarted takes processes back that were created and not started when the runtime before this one ended.
func (r *recovery) unstarted(ctx context.Context, s *sandbox, client shimClient) error {
	states, err := client.States(ctx)
	if err != nil {
		return err
	}
	for _, st := range states {
		_, err := r.m.table.container(st.ID)
		if st.Status == shim.Created || err != nil {
			if err := ignoreMissing(client.Delete(ctx, st.ID)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep removes what has no record: records of containers without a sandbox, shims, namespaces, file systems and folders.
func (r *recovery) sweep(ctx context.Context, tasks map[string]*containerRecord) error {
	known := func(id string) bool {
		_, pod := r.m.table.sandbox(id)
		_, task := r.m.table.container(id)
		return pod == nil || task == nil
	}
	for id := range tasks {
		if !known(id) {
			if err := r.m.tasks.remove(id); err != nil {
				return err
			}
		}
	}
	err := each(r.m.shimsDir(), known, func(id string) error {
		dir := r.m.shimDir(id)
		if client, err := r.m.shims.connect(ctx, dir); err == nil {
			if err := client.Shutdown(ctx); err != nil && !errors.Is(err, shim.ErrGone) {
				return err
			}
		}
		return r.m.shims.clean(dir)
	})
	keys, mountErr := r.m.cfg.Images.Mounted()
	for _, key := range keys {
		if id, _, _ := strings.Cut(key, "-"); !known(id) {
			mountErr = errors.Join(mountErr, r.m.cfg.Images.Unmount(key))
		}
	}
	return errors.Join(err, mountErr,
		r.m.sweepCgroups(known), r.collect(ctx),
		each(r.m.netnsDir(), known, func(id string) error { return unpin(r.m.netns(id)) }),
		each(r.m.sandboxesDir(), known, func(id string) error { return clearDir(r.m.sandboxDir(id)) }),
		each(r.m.bundlesDir(), known, func(id string) error { return clearDir(r.m.bundle(id)) }),
	)
}

// collector is what a Network may do besides: it detaches all sandboxes but those given.
type collector interface {
	GC(ctx context.Context, keep []string) error
}

// collect tells the network which sandboxes there are.
func (r *recovery) collect(ctx context.Context) error {
	n, ok := r.m.cfg.Network.(collector)
	if !ok {
		return nil
	}
	var keep []string
	for _, s := range r.m.table.allSandboxes() {
		if rec := s.record(); rec.NetNS != "" && rec.Phase != ended {
			keep = append(keep, s.id)
		}
	}
	return n.GC(ctx, keep)
}

// each calls remove for what lies in a folder and is not known.
func each(dir string, known func(id string) bool, remove func(id string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	var failed error
	for _, e := range entries {
		if !known(e.Name()) {
			failed = errors.Join(failed, remove(e.Name()))
		}
	}
	return failed
}
