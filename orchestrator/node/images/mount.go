package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/keelson-io/keelson/orchestrator/node/images/overlay"
	"github.com/keelson-io/keelson/orchestrator/node/images/unpack"
)

// IDMapping maps ids of a user namespace to ids of the host.
type IDMapping = overlay.IDMapping

// MountRequest says what to mount.
type MountRequest struct {
	Key      string // of the caller's choice: the ID of a container. A name for a file.
	Image    string // as Resolve takes it
	Target   string // a directory, which is made if it is not there
	ReadOnly bool   // without a writable layer
	// UIDs and GIDs are those of the container's user namespace: both or none.
	UIDs []IDMapping
	GIDs []IDMapping
}

// mount is the note on a mount.
type mount struct {
	Key      string        `json:"key"`
	Image    digest.Digest `json:"image"`
	Layers   []layerRef    `json:"layers"`
	Target   string        `json:"target"`
	ReadOnly bool          `json:"readOnly,omitempty"`
	UIDs     []IDMapping   `json:"uids,omitempty"`
	GIDs     []IDMapping   `json:"gids,omitempty"`
	Made     bool          `json:"made,omitempty"` // the target was made for it
	Boot     string        `json:"boot,omitempty"` // the start of the machine at which the writable layer began
}

const mountFile = "mount.json"

func (s *Store) mountDir(key string) string { return filepath.Join(s.dir, mountsDir, key) }

// source is how the table of mounts names a mount of ours: by the store, the key, and all that it is made of.
func (s *Store) source(m mount) string {
	b, _ := json.Marshal([]any{s.dir, m.Image, m.ReadOnly, m.UIDs, m.GIDs}) // of strings and numbers: it cannot fail
	return "keelson:" + m.Key + ":" + digest.FromBytes(b).Encoded()[:16]
}

func checkKey(key string) error {
	if key == "" || strings.HasPrefix(key, ".") || strings.ContainsAny(key, "/\x00") || len(key) > 200 {
		return fmt.Errorf("images: the key %q of a mount is %w: want a name for a file", key, ErrInvalid)
	}
	return nil
}

// Mount shows an image at a directory, with a writable layer of its own for the key. It does nothing if that is there
// already. After the process died it takes up the layer that was left; after the machine went down it begins with an empty
// one. The same key with another image or target is an error that is ErrInUse, as is a target on which somebody else has
// mounted an overlay.
func (s *Store) Mount(ctx context.Context, req MountRequest) error {
	if err := checkKey(req.Key); err != nil {
		return err
	}
	if (len(req.UIDs) == 0) != (len(req.GIDs) == 0) {
		return fmt.Errorf("images: mount %s: %w: mappings of users and groups go together", req.Key, ErrInvalid)
	}
	target, err := filepath.Abs(req.Target)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	req.Target = target
	o, err := s.begin()
	if err != nil {
		return err
	}
	defer o.end()
	lock, err := flockWait(ctx, filepath.Join(s.dir, ingestDir, "mount-"+req.Key), nil)
	if err != nil {
		return err
	}
	defer func() {
		_ = os.Remove(lock.Name())
		_ = lock.Close()
	}()
	m, err := s.enter(req)
	if err != nil {
		return err
	}
	if err := s.mountImage(ctx, o, m); err != nil {
		return fmt.Errorf("images: mount %s for %s: %w", req.Image, req.Key, err)
	}
	s.touch(m.Image)
	return nil
}

// enter notes a mount before it is made, so that its layers are not collected, or finds the note.
func (s *Store) enter(req MountRequest) (m mount, err error) {
	err = s.locked(func() error {
		all, err := s.load()
		if err != nil {
			return err
		}
		r, lookupErr := lookup(all, req.Image)
		if m, err = s.mountOf(req.Key); err == nil {
			same := m.Target == req.Target && m.ReadOnly == req.ReadOnly && slices.Equal(m.UIDs, req.UIDs) && slices.Equal(m.GIDs, req.GIDs)
			if lookupErr == nil {
				same = same && m.Image == r.ID
			}
			if !same {
				return fmt.Errorf("images: mount %s: the key is %w: it has %s at %s", req.Key, ErrInUse, m.Image, m.Target)
			}
			return nil
		}
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		if lookupErr != nil {
			return lookupErr
		}
		m = mount{
			Key: req.Key, Image: r.ID, Layers: r.Layers, Target: req.Target, ReadOnly: req.ReadOnly, UIDs: req.UIDs, GIDs: req.GIDs, Boot: s.boot,
		}
		if _, err := os.Lstat(m.Target); errors.Is(err, os.ErrNotExist) {
			m.Made = true
		}
		return s.saveMount(m)
	})
	return m, err
}

func (s *Store) saveMount(m mount) error {
	if err := os.MkdirAll(s.mountDir(m.Key), 0o700); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	// Not synced: after the machine went down there is nothing to be found behind a note.
	tmp := filepath.Join(s.mountDir(m.Key), ".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(s.mountDir(m.Key), mountFile)); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	return nil
}

// mountOf reads the note on a mount.
func (s *Store) mountOf(key string) (m mount, err error) {
	b, err := os.ReadFile(filepath.Join(s.mountDir(key), mountFile))
	if errors.Is(err, os.ErrNotExist) {
		return m, fmt.Errorf("images: mount %s: %w", key, ErrNotFound)
	}
	if err != nil {
		return m, fmt.Errorf("images: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Key != key {
		return m, fmt.Errorf("images: mount %s: %w", key, ErrNotFound) // cut short by a fall of the machine
	}
	return m, nil
}

// mountImage makes the mount of a note.
func (s *Store) mountImage(ctx context.Context, o *op, m mount) error {
	switch on, err := overlay.Source(m.Target); {
	case err != nil:
		return err
	case on == s.source(m):
		return nil
	case on != "":
		return fmt.Errorf("%s is %w: an overlay of %s is mounted there", m.Target, ErrInUse, on)
	}
	if err := o.claim(layerKeys(m.Layers)...); err != nil {
		return err
	}
	keys, err := s.unpackAll(ctx, o, m.Layers, func(context.Context, int) error { return nil })
	if err != nil {
		return err
	}
	spec := overlay.Spec{Target: m.Target, Source: s.source(m), Empty: filepath.Join(s.dir, layersDir, emptyLayer, "none"), UIDs: m.UIDs, GIDs: m.GIDs}
	for i, key := range slices.Backward(keys) {
		if !slices.Contains(keys[i+1:], key) { // what lies above covers it
			spec.Lower = append(spec.Lower, s.layerDir(key))
		}
		if note, err := s.layerMeta(key); err != nil {
			return err
		} else if note.Opaque {
			break
		}
	}
	if len(spec.Lower) == 0 {
		spec.Lower = []string{s.layerDir(emptyLayer)}
	}
	if !m.ReadOnly {
		spec.Upper, spec.Work = filepath.Join(s.mountDir(m.Key), "upper"), filepath.Join(s.mountDir(m.Key), "work")
		if err := s.writable(m, spec, s.rootOf(keys)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	return overlay.Mount(spec)
}

// rootOf returns owner and mode of the root directory that layers make: the topmost that says so counts.
func (s *Store) rootOf(keys []string) unpack.Attr {
	for _, key := range slices.Backward(keys) {
		if m, err := s.layerMeta(key); err == nil && m.Root != nil {
			return *m.Root
		}
	}
	return unpack.Attr{Mode: 0o755}
}

// writable makes the directories of a writable layer. What the root directory looks like is seen in the upper one.
func (s *Store) writable(m mount, spec overlay.Spec, root unpack.Attr) error {
	if m.Boot != s.boot { // it was never synced
		if err := errors.Join(os.RemoveAll(spec.Upper), os.RemoveAll(spec.Work)); err != nil {
			return err
		}
		m.Boot = s.boot
		if err := s.saveMount(m); err != nil {
			return err
		}
	}
	if err := os.Mkdir(spec.Work, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if _, err := os.Lstat(spec.Upper); err == nil {
		return nil
	}
	uid, ok := overlay.ToHost(root.UID, m.UIDs)
	gid, also := overlay.ToHost(root.GID, m.GIDs)
	if !ok || !also {
		return fmt.Errorf("the root directory belongs to %d:%d, whom the user namespace does not have", root.UID, root.GID)
	}
	tmp, err := os.MkdirTemp(s.mountDir(m.Key), "upper-")
	if err != nil {
		return err
	}
	if err := os.Chown(tmp, uid, gid); err != nil {
		return err
	}
	if err := os.Chmod(tmp, os.FileMode(root.Mode&0o777)|modeBits(root.Mode)); err != nil {
		return err
	}
	return os.Rename(tmp, spec.Upper)
}

// modeBits are the upper three bits of a mode, as package os has them.
func modeBits(mode uint32) (m os.FileMode) {
	for bit, to := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if mode&bit != 0 {
			m |= to
		}
	}
	return m
}

// Unmount removes a mount and its writable layer. It does nothing if there is none.
func (s *Store) Unmount(key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	lock, err := flockWait(context.Background(), filepath.Join(s.dir, ingestDir, "mount-"+key), nil)
	if err != nil {
		return err
	}
	defer func() {
		_ = os.Remove(lock.Name())
		_ = lock.Close()
	}()
	m, err := s.mountOf(key)
	known := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if known {
		if err := s.release(m); err != nil {
			return err
		}
	}
	var gone string
	orphan := false
	err = s.locked(func() error {
		if gone, err = s.setAside(s.mountDir(key)); err != nil {
			return err
		}
		all, err := s.load()
		orphan = known && !slices.ContainsFunc(all, func(r record) bool { return r.ID == m.Image })
		return err
	})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("images: unmount %s: %w", key, err)
	}
	if orphan {
		return s.sweep()
	}
	return nil
}

// release takes the mount away, and the target if it was made for it.
func (s *Store) release(m mount) error {
	on, err := overlay.Source(m.Target)
	if err != nil {
		return err
	}
	if on == s.source(m) { // what others have mounted is not ours to take away
		if err := overlay.Unmount(m.Target); err != nil {
			return err
		}
	}
	if m.Made {
		_ = os.Remove(m.Target) // unless the caller has put something in
	}
	return nil
}

// Mounted returns the keys of all mounts that are noted, whether they are still there or went with the machine; sorted.
func (s *Store) Mounted() []string {
	entries, err := os.ReadDir(filepath.Join(s.dir, mountsDir))
	if err != nil {
		return nil
	}
	var keys []string
	for _, e := range entries {
		if e.IsDir() && checkKey(e.Name()) == nil {
			keys = append(keys, e.Name())
		}
	}
	return keys
}

// mounts reads all notes on mounts. The caller holds the store's lock.
func (s *Store) mounts() ([]mount, error) {
	var all []mount
	for _, key := range s.Mounted() {
		m, err := s.mountOf(key)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// Usage returns what the writable layer of a mount takes of the disk.
func (s *Store) Usage(key string) (bytes, inodes int64, err error) {
	if err := checkKey(key); err != nil {
		return 0, 0, err
	}
	if _, err := os.Stat(s.mountDir(key)); err != nil {
		return 0, 0, fmt.Errorf("images: mount %s: %w", key, ErrNotFound)
	}
	upper := filepath.Join(s.mountDir(key), "upper")
	if _, err := os.Stat(upper); err != nil {
		return 0, 0, nil //nolint:nilerr // read-only
	}
	return diskUsage(upper)
}
