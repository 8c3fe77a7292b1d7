package podnet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func compare(a, b string) int { return cmp.Compare(a, b) }

// linkName is the name of the node's end of a sandbox's link.
func linkName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return LinkPrefix + hex.EncodeToString(sum[:5])
}

// Attach puts a sandbox on the network and returns its addresses, that of the primary family first. A sandbox that is attached
// keeps what it has.
func (n *Network) Attach(ctx context.Context, id, netns string, c *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	if !validID.MatchString(id) {
		return nil, fmt.Errorf("podnet: %q is not the id of a sandbox", id)
	}
	if netns == "" {
		return nil, fmt.Errorf("podnet: sandbox %s has no network namespace of its own", id)
	}
	defer n.busy.lock(id)()
	if err := n.ensureBase(); err != nil {
		return nil, err
	}
	r, err := n.reserve(id, netns, c)
	if err != nil {
		return nil, err
	}
	if err := n.connect(ctx, r); err != nil {
		if undo := n.remove(r); undo != nil {
			n.Logger.Warn("what is left of a sandbox that could not be attached", zap.String("sandbox", id), zap.Error(undo))
		}
		return nil, err
	}
	return slices.Clone(r.Addresses), nil
}

// reserve finds what a sandbox has, or gives it addresses and keeps that on disk.
func (n *Network) reserve(id, netns string, c *runtimeapi.PodSandboxConfig) (*record, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.store.records[id]; r != nil {
		if r.NetNS != netns {
			r = new(*r)
			r.NetNS = netns
			return r, n.store.put(r)
		}
		return r, nil
	}
	if len(n.store.node.Ranges) == 0 {
		return nil, fmt.Errorf("podnet: node %s has no range of pod addresses yet (spec.podCIDRs is empty)", n.Node)
	}
	m := c.GetMetadata()
	r := &record{ID: id, Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUid(), NetNS: netns, Link: linkName(id), MTU: n.store.node.MTU}
	var err error
	if r.Bandwidth, err = bandwidthOf(c.GetAnnotations()); err != nil {
		return nil, err
	}
	if r.Ports, err = portsOf(c.GetPortMappings()); err != nil {
		return nil, err
	}
	if err := n.conflict(r); err != nil {
		return nil, err
	}
	if r.Addresses, err = n.store.allocate(); err != nil {
		return nil, err
	}
	return r, n.store.put(r)
}

// conflict says which other sandbox has a host port.
func (n *Network) conflict(r *record) error {
	for _, p := range r.Ports {
		for _, o := range n.store.records {
			if slices.ContainsFunc(o.Ports, p.overlaps) {
				return fmt.Errorf("podnet: host port %s is taken by pod %s/%s", p, o.Namespace, o.Name)
			}
		}
	}
	return nil
}

// connect makes all that a sandbox needs in the kernel.
func (n *Network) connect(ctx context.Context, r *record) error {
	if err := n.admit(ctx, r); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.plug(r); err != nil {
		return err
	}
	if len(r.Ports) == 0 {
		return nil
	}
	if err := n.syncTable(); err != nil {
		return err
	}
	return n.forgetFlows(r)
}

// admit asks the guard for a sandbox.
func (n *Network) admit(ctx context.Context, r *record) error {
	if n.Guard == nil {
		return nil
	}
	if err := n.Guard.Admit(ctx, r.pod()); err != nil {
		return fmt.Errorf("podnet: guard of pod %s/%s: %w", r.Namespace, r.Name, err)
	}
	return nil
}

// Detach takes a sandbox off the network and frees its addresses. One that is not known is detached.
func (n *Network) Detach(ctx context.Context, id, netns string, _ *runtimeapi.PodSandboxConfig) error {
	if !validID.MatchString(id) {
		return nil
	}
	defer n.busy.lock(id)()
	n.mu.Lock()
	r := n.store.records[id]
	n.mu.Unlock()
	if r == nil {
		return n.unplug(linkName(id))
	}
	return n.remove(r)
}

// remove undoes connect and reserve. Where it fails it can be called again.
func (n *Network) remove(r *record) error {
	if len(r.Ports) > 0 {
		n.mu.Lock()
		n.leaving[r.ID] = true
		n.mu.Unlock()
		defer func() {
			n.mu.Lock()
			delete(n.leaving, r.ID)
			n.mu.Unlock()
		}()
		if err := n.syncTable(); err != nil {
			return err
		}
	}
	if err := n.unplug(r.Link); err != nil {
		return err
	}
	if len(r.Ports) > 0 {
		if err := n.forgetFlows(r); err != nil {
			n.Logger.Warn("flows of a host port", zap.String("sandbox", r.ID), zap.Error(err))
		}
	}
	if n.Guard != nil {
		n.Guard.Forget(r.pod())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.store.drop(r.ID)
}

// GC detaches all sandboxes but those with the given ids, and removes links of which nothing is known.
func (n *Network) GC(ctx context.Context, keep []string) error {
	links, err := n.podLinks()
	if err != nil {
		return err
	}
	var gone []string
	n.mu.Lock()
	for id, r := range n.store.records {
		delete(links, r.Link)
		if !slices.Contains(keep, id) {
			gone = append(gone, id)
		}
	}
	n.mu.Unlock()
	var errs []error
	for _, id := range gone {
		errs = append(errs, n.Detach(ctx, id, "", nil))
	}
	for name := range links {
		errs = append(errs, n.unplug(name))
	}
	return errors.Join(errs...)
}

// podLinks lists the node's ends of pods' links.
func (n *Network) podLinks() (map[string]netlink.Link, error) {
	all, err := n.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("podnet: links: %w", err)
	}
	out := map[string]netlink.Link{}
	for _, l := range all {
		if strings.HasPrefix(l.Attrs().Name, LinkPrefix) && l.Type() == "veth" {
			out[l.Attrs().Name] = l
		}
	}
	return out, nil
}

// keyed is a lock per key.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*held
}

type held struct {
	sync.Mutex
	users int
}

func (k *keyed) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*held{}
	}
	l := k.locks[key]
	if l == nil {
		l = &held{}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
}

// Check says whether a sandbox is attached, and its link as it was made.
func (n *Network) Check(id string) error {
	defer n.busy.lock(id)()
	n.mu.Lock()
	r := n.store.records[id]
	n.mu.Unlock()
	if r == nil {
		return fmt.Errorf("podnet: sandbox %s is not attached", id)
	}
	ns, err := openNS(r.NetNS)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("podnet: sandbox %s: %w", id, err)
	}
	defer pod.Close()
	if !n.plugged(r, pod) {
		return fmt.Errorf("podnet: the link of sandbox %s is not as it was made", id)
	}
	return nil
}
