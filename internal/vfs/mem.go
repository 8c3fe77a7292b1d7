package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mem is a file system in memory that knows what of it is durable, so that a power cut can be tried out: see CrashClone.
//
// What a file holds is durable after Sync or SyncData, that it is there under its name after SyncDir of its directory: a new
// file needs both. Changes of directories become durable in the order in which they were made, a rename at once for both
// names. Paths are absolute or relative to the root.
type Mem struct {
	mu      sync.Mutex
	root    *inode
	pending []change // of directories, not durable yet
}

// inode is a file or, with entries, a directory.
type inode struct {
	content
	entries map[string]*inode
	durable map[string]*inode // entries that survive a crash
	locked  bool
}

func newDir() *inode { return &inode{entries: map[string]*inode{}, durable: map[string]*inode{}} }

// link is a name in a directory that was set or, without a node, removed.
type link struct {
	dir  *inode
	name string
	node *inode
}

// change is what becomes durable as a whole.
type change []link

// NewMem returns an empty file system.
func NewMem() *Mem { return &Mem{root: newDir()} }

// CrashClone returns what a power cut at this moment would leave, as a file system of its own. What was synced is there. Of
// the rest each sector, and a number of the first changes of directories, is there or not, as rng decides; nil: none is.
// Locks are free.
func (m *Mem) CrashClone(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &cloner{rng: rng, done: map[*inode]*inode{}}
	if rng != nil {
		c.keep = []float64{0, 0.1, 0.5, 0.9, 1}[rng.IntN(5)]
	}
	clone := &Mem{root: c.clone(m.root)}
	if rng != nil {
		for _, ch := range m.pending[:rng.IntN(len(m.pending)+1)] {
			for _, l := range ch {
				set(c.clone(l.dir).durable, l.name, c.clone(l.node))
			}
		}
	}
	for _, n := range c.done {
		if n.entries != nil {
			n.entries = maps.Clone(n.durable)
		}
	}
	return clone
}

// cloner copies the durable state of inodes.
type cloner struct {
	rng  *rand.Rand
	keep float64 // the share of unsynced sectors that are kept
	done map[*inode]*inode
}

func (c *cloner) clone(n *inode) *inode {
	if n == nil {
		return nil
	}
	if there := c.done[n]; there != nil {
		return there
	}
	out := &inode{}
	c.done[n] = out
	if n.entries == nil {
		out.content = n.crashed(c.rng, c.keep)
		return out
	}
	out.entries, out.durable = map[string]*inode{}, map[string]*inode{}
	for _, name := range slices.Sorted(maps.Keys(n.durable)) { // sorted: the same choices for the same rng
		out.durable[name] = c.clone(n.durable[name])
	}
	return out
}

func set(entries map[string]*inode, name string, n *inode) {
	if n == nil {
		delete(entries, name)
		return
	}
	entries[name] = n
}

// change makes a change of directories.
func (m *Mem) change(ch ...link) {
	for _, l := range ch {
		set(l.dir.entries, l.name, l.node)
	}
	m.pending = append(m.pending, ch)
}

func clean(name string) string { return filepath.ToSlash(filepath.Clean("/" + filepath.ToSlash(name))) }

// find returns the inode of a path.
func (m *Mem) find(op, name string) (*inode, error) {
	n := m.root
	for part := range strings.SplitSeq(strings.Trim(clean(name), "/"), "/") {
		if part == "" {
			break
		}
		if n.entries == nil {
			return nil, pathError(op, name, syscall.ENOTDIR)
		}
		if n = n.entries[part]; n == nil {
			return nil, pathError(op, name, fs.ErrNotExist)
		}
	}
	return n, nil
}

// parent returns the directory that holds, or would hold, a path, and its last element.
func (m *Mem) parent(op, name string) (*inode, string, error) {
	dir, base := filepath.Split(clean(name))
	if base == "" {
		return nil, "", pathError(op, name, fs.ErrInvalid)
	}
	n, err := m.find(op, dir)
	if err == nil && n.entries == nil {
		err = pathError(op, name, syscall.ENOTDIR)
	}
	return n, base, err
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// OpenFile opens a file. Permissions are not looked at.
func (m *Mem) OpenFile(name string, flag int, _ fs.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("open", name)
	if err != nil {
		return nil, err
	}
	n := dir.entries[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, pathError("open", name, fs.ErrNotExist)
	case n == nil:
		n = &inode{}
		m.change(link{dir, base, n})
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, pathError("open", name, fs.ErrExist)
	case n.entries != nil:
		return nil, pathError("open", name, syscall.EISDIR)
	case flag&os.O_TRUNC != 0:
		n.resize(0)
	}
	return &memFile{mem: m, node: n, name: name, flag: flag}, nil
}

// MkdirAll makes a directory and those above it.
func (m *Mem) MkdirAll(name string, _ fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for part := range strings.SplitSeq(strings.Trim(clean(name), "/"), "/") {
		if part == "" {
			break
		}
		next := n.entries[part]
		if next == nil {
			next = newDir()
			m.change(link{n, part, next})
		}
		if next.entries == nil {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
		n = next
	}
	return nil
}

// Remove removes a file or an empty directory.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("remove", name)
	if err != nil {
		return err
	}
	n := dir.entries[base]
	if n == nil {
		return pathError("remove", name, fs.ErrNotExist)
	}
	if len(n.entries) > 0 {
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	m.change(link{dir, base, nil})
	return nil
}

// Rename moves a file or directory. A file in its new place is replaced, a directory is not.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fail := func(err error) error { return &os.LinkError{Op: "rename", Old: from, New: to, Err: err} }
	dir, base, err := m.parent("rename", from)
	if err != nil {
		return fail(err)
	}
	todir, tobase, err := m.parent("rename", to)
	if err != nil {
		return fail(err)
	}
	n, there := dir.entries[base], todir.entries[tobase]
	switch {
	case n == nil:
		return fail(fs.ErrNotExist)
	case there != nil && there.entries != nil:
		return fail(fs.ErrExist)
	case n == there:
		return nil
	case there != nil && n.entries != nil:
		return fail(syscall.ENOTDIR)
	case strings.HasPrefix(clean(to), clean(from)+"/"):
		return fail(fs.ErrInvalid)
	}
	m.change(link{dir, base, nil}, link{todir, tobase, n})
	return nil
}

// ReadDir lists the names in a directory, sorted.
func (m *Mem) ReadDir(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("open", name)
	if err != nil {
		return nil, err
	}
	if n.entries == nil {
		return nil, pathError("readdir", name, syscall.ENOTDIR)
	}
	return slices.Sorted(maps.Keys(n.entries)), nil
}

// Stat describes a file or directory.
func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("stat", name)
	if err != nil {
		return nil, err
	}
	return n.info(name), nil
}

// SyncDir makes all changes of directories durable up to the last one of this directory.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("sync", name)
	if err != nil {
		return err
	}
	last := len(m.pending) - 1
	for ; last >= 0; last-- {
		if slices.ContainsFunc(m.pending[last], func(l link) bool { return l.dir == n }) {
			break
		}
	}
	for _, ch := range m.pending[:last+1] {
		for _, l := range ch {
			set(l.dir.durable, l.name, l.node)
		}
	}
	m.pending = slices.Delete(m.pending, 0, last+1)
	return nil
}

// Lock locks a file, whatever it is renamed to.
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find("lock", name)
	if err != nil {
		return nil, err
	}
	if n.locked {
		return nil, fmt.Errorf("%s: %w", name, ErrLocked)
	}
	n.locked = true
	return &memLock{mem: m, node: n}, nil
}

type memLock struct {
	mem  *Mem
	node *inode
}

func (l *memLock) Close() error {
	l.mem.mu.Lock()
	defer l.mem.mu.Unlock()
	if l.node == nil {
		return fs.ErrClosed
	}
	l.node.locked = false
	l.node = nil
	return nil
}

// memInfo is a fs.FileInfo.
type memInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (n *inode) info(name string) fs.FileInfo {
	if n.entries != nil {
		return memInfo{filepath.Base(name), 0, fs.ModeDir | 0o700}
	}
	return memInfo{filepath.Base(name), n.size, 0o600}
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) Mode() fs.FileMode  { return i.mode }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.mode.IsDir() }
func (i memInfo) Sys() any           { return nil }
