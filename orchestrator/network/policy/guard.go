package policy

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/nftables"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

var _ podnet.Guard = (*Enforcer)(nil)

// Admit isolates a pod before it has a link: as policies say or, while its object is not known, from everything but its node. For
// the object it waits a moment.
func (e *Enforcer) Admit(ctx context.Context, p podnet.Pod) error {
	x, settled, err := e.attach(p)
	if settled || err != nil {
		return err
	}
	t := e.clock.NewTimer(e.patience)
	defer t.Stop()
	for _, c := range []<-chan struct{}{e.ready, x.known} {
		select {
		case <-c:
		case <-t.C():
			e.logger.Warn("a pod is attached before its object is known, and until then reaches nothing but its node", zap.String("pod", p.Namespace+"/"+p.Name))
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.writeLocked()
}

// attach adds a pod to the table. It says whether all is known that matters for it.
func (e *Enforcer) attach(p podnet.Pod) (x *subject, settled bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x = e.state.attach(p)
	if e.isReady() {
		return x, !e.state.undecided(x), e.writeLocked()
	}
	e.wait[p.ID] = true
	if err := e.early.Sync(e.state.waiting(e.wait)); err != nil {
		return nil, false, fmt.Errorf("policy: %w", err)
	}
	return x, false, nil
}

// Resume takes a pod over that was isolated by an earlier process. What isolates it is in the kernel, and stays until policies are known.
func (e *Enforcer) Resume(p podnet.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state.attach(p)
	if e.left[p.Link] {
		e.wait[p.ID] = true
	}
	e.kick()
}

// linksOf are the links in a set of a table, if there is one in a namespace.
func linksOf(netns int, table, set string) (map[string]bool, error) {
	c, err := nftables.New(nftables.WithNetNSFd(netns))
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	t, err := c.ListTableOfFamily(table, nftables.TableFamilyINet)
	if err != nil || t == nil {
		return nil, nil //nolint:nilerr // it is not there
	}
	s, err := c.GetSetByName(t, set)
	if err != nil {
		return nil, fmt.Errorf("policy: the table %s: %w", table, err)
	}
	elements, err := c.GetSetElements(s)
	if err != nil {
		return nil, fmt.Errorf("policy: the table %s: %w", table, err)
	}
	found := map[string]bool{}
	for _, x := range elements {
		found[string(bytes.TrimRight(x.Key, "\x00"))] = true
	}
	return found, nil
}

// Forget ends the isolation of a pod whose link is gone.
func (e *Enforcer) Forget(p podnet.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state.forget(p.ID)
	delete(e.wait, p.ID)
	e.kick()
}
