package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"

	"go.uber.org/zap"
)

// record is what is known of a sandbox that is attached.
type record struct {
	ID        string       `json:"id"`
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	UID       string       `json:"uid"`
	NetNS     string       `json:"netns"`
	Link      string       `json:"link"` // the host's end
	MTU       int          `json:"mtu"`
	Addresses []netip.Addr `json:"addresses"`
	Ports     []port       `json:"ports,omitempty"`
	Bandwidth bandwidth    `json:"bandwidth,omitzero"`
}

// port is a port of the host that leads to a pod.
type port struct {
	Protocol  byte       `json:"protocol"` // of IP
	Host      netip.Addr `json:"host,omitzero"`
	HostPort  uint16     `json:"hostPort"`
	Container uint16     `json:"container"`
}

// node is what the network knows of its node. It is kept, so that pods can be attached before the API server answers.
type node struct {
	Ranges []netip.Prefix `json:"ranges"`
	MTU    int            `json:"mtu"`
}

// store is the records and the node's ranges, in memory and in files. It is not safe for concurrent use.
type store struct {
	dir     string
	records map[string]*record
	taken   map[netip.Addr]string // by whom
	last    map[int]netip.Addr    // given out, by family
	node    node
}

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func openStore(dir string, lg *zap.Logger) (*store, error) {
	s := &store{dir: dir, records: map[string]*record{}, taken: map[netip.Addr]string{}, last: map[int]netip.Addr{}}
	if err := os.MkdirAll(filepath.Join(dir, "sandboxes"), 0o700); err != nil {
		return nil, fmt.Errorf("podnet: %w", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, unfinished))
	for _, path := range left {
		_ = os.Remove(path)
	}
	if err := readJSON(filepath.Join(dir, "node.json"), &s.node); err != nil && !errors.Is(err, fs.ErrNotExist) {
		lg.Warn("what was kept of the node cannot be read, and is learned anew", zap.Error(err))
	}
	var last []netip.Addr
	if err := readJSON(filepath.Join(dir, "last.json"), &last); err == nil {
		for _, a := range last {
			s.last[family(a)] = a
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "sandboxes"))
	if err != nil {
		return nil, fmt.Errorf("podnet: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(dir, "sandboxes", f.Name())
		r := &record{}
		// A file is whole or was not yet renamed to its name. One that is not is of a machine that lost power, and so is its sandbox.
		if err := readJSON(path, r); err != nil || s.file(r.ID) != path {
			lg.Warn("a record of a sandbox cannot be read, and is dropped", zap.String("file", path), zap.Error(err))
			_ = os.Remove(path)
			continue
		}
		s.keep(r)
	}
	return s, nil
}

func (s *store) file(id string) string { return filepath.Join(s.dir, "sandboxes", id+".json") }

func (s *store) keep(r *record) {
	s.records[r.ID] = r
	for _, a := range r.Addresses {
		s.taken[a] = r.ID
	}
}

// put keeps a record, on disk first.
func (s *store) put(r *record) error {
	if err := s.write(s.file(r.ID), r); err != nil {
		return err
	}
	s.keep(r)
	return nil
}

// drop forgets a record and frees its addresses.
func (s *store) drop(id string) error {
	r := s.records[id]
	if r == nil {
		return nil
	}
	if err := os.Remove(s.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("podnet: %w", err)
	}
	delete(s.records, id)
	for _, a := range r.Addresses {
		if s.taken[a] == id {
			delete(s.taken, a)
		}
	}
	return nil
}

// setNode keeps what is known of the node.
func (s *store) setNode(n node) error {
	s.node = n
	return s.write(filepath.Join(s.dir, "node.json"), n)
}

// allocate finds a free address in each range, beginning behind the one that was given out last. The first address of a range
// is the gateway, and the last one of IPv4 is for broadcasts.
func (s *store) allocate() ([]netip.Addr, error) {
	var out, last []netip.Addr
	for _, p := range s.node.Ranges {
		a, err := s.free(p)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	for _, a := range out {
		s.last[family(a)] = a
	}
	for _, a := range s.last {
		last = append(last, a)
	}
	return out, s.write(filepath.Join(s.dir, "last.json"), last)
}

func (s *store) free(p netip.Prefix) (netip.Addr, error) {
	first := gateway(p).Next()
	usable := func(a netip.Addr) bool {
		return p.Contains(a) && a.Compare(first) >= 0 && (a.Is6() || p.Contains(a.Next()))
	}
	if !usable(first) {
		return netip.Addr{}, fmt.Errorf("podnet: the range %s is too small for pods", p)
	}
	a := s.last[family(first)]
	// As many steps as there are addresses taken, and one past each end, find a free one if there is one.
	for range len(s.taken) + 2 {
		if a = a.Next(); !usable(a) {
			a = first
		}
		if _, taken := s.taken[a]; !taken {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("podnet: all addresses of the range %s are taken", p)
}

// gateway is the first address of a range.
func gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// write replaces a file, so that a reader sees the old one or the new one. It does not wait for the disk: when a machine
// loses its power, its sandboxes are gone too.
func (s *store) write(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	f, err := os.CreateTemp(s.dir, unfinished)
	if err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("podnet: %w", err)
	}
	return nil
}

// unfinished is the pattern of the names of files that are being written.
const unfinished = ".unfinished-*"
