package membership

import (
	"encoding/json"
	"path"
	"slices"
	"time"
)

// etcd keeps the members in each .snap file as the dump of a key-value tree of its second generation. The tree holds
// nothing else any more:
//
//	/0/members/<id>/raftAttributes    {"peerURLs":[...],"isLearner":true}
//	/0/members/<id>/attributes        {"name":"a","clientURLs":[...]}     only of a member that has started
//	/0/removed_members/<id>           (empty)
//	/0/version                        3.7.0
//	/1                                (a directory without contents)
//
// The dump numbers the writes, tells of each in a ring of the latest events, and counts them. The writes here are in the
// order of etcd, with members by id where etcd has a random order.

type v2Node struct {
	Path          string
	CreatedIndex  uint64
	ModifiedIndex uint64
	ExpireTime    time.Time
	Value         string
	Children      map[string]*v2Node // nil: not a directory
}

type v2Event struct {
	Action string      `json:"action"`
	Node   v2EventNode `json:"node"`
}

type v2EventNode struct {
	Key           string `json:"key"`
	Value         string `json:"value"`
	ModifiedIndex uint64 `json:"modifiedIndex"`
	CreatedIndex  uint64 `json:"createdIndex"`
}

type v2Queue struct {
	Events                      []*v2Event
	Size, Front, Back, Capacity int
}

type v2History struct {
	Queue                 v2Queue
	StartIndex, LastIndex uint64
}

type v2Stats struct {
	GetsSuccess   uint64 `json:"getsSuccess"`
	GetsFail      uint64 `json:"getsFail"`
	SetsSuccess   uint64 `json:"setsSuccess"`
	SetsFail      uint64 `json:"setsFail"`
	DeleteSuccess uint64 `json:"deleteSuccess"`
	DeleteFail    uint64 `json:"deleteFail"`
	UpdateSuccess uint64 `json:"updateSuccess"`
	UpdateFail    uint64 `json:"updateFail"`
	CreateSuccess uint64 `json:"createSuccess"`
	CreateFail    uint64 `json:"createFail"`
	SwapSuccess   uint64 `json:"compareAndSwapSuccess"`
	SwapFail      uint64 `json:"compareAndSwapFail"`
	CADSuccess    uint64 `json:"compareAndDeleteSuccess"`
	CADFail       uint64 `json:"compareAndDeleteFail"`
	ExpireCount   uint64 `json:"expireCount"`
	Watchers      uint64 `json:"watchers"`
}

type v2Store struct {
	Root           *v2Node
	WatcherHub     struct{ EventHistory v2History }
	CurrentIndex   uint64
	Stats          v2Stats
	CurrentVersion int
}

const (
	v2Version  = 2
	v2Capacity = 1000 // of the ring of events
)

func newV2Store() *v2Store {
	s := &v2Store{Root: v2Dir("/", 0), CurrentVersion: v2Version}
	s.Root.Children["0"], s.Root.Children["1"] = v2Dir("/0", 0), v2Dir("/1", 0)
	s.WatcherHub.EventHistory.Queue = v2Queue{Events: make([]*v2Event, v2Capacity), Capacity: v2Capacity}
	s.Stats.GetsFail = 1 // etcd looks whether the tree is empty
	return s
}

func v2Dir(path string, index uint64) *v2Node {
	return &v2Node{Path: path, CreatedIndex: index, ModifiedIndex: index, Children: map[string]*v2Node{}}
}

// write adds a value; names is the way to it from the root.
func (s *v2Store) write(action, value string, names ...string) {
	s.CurrentIndex++
	n := s.Root
	for _, name := range names[:len(names)-1] {
		child := n.Children[name]
		if child == nil {
			child = v2Dir(path.Join(n.Path, name), s.CurrentIndex)
			n.Children[name] = child
		}
		n = child
	}
	name := names[len(names)-1]
	leaf := &v2Node{Path: path.Join(n.Path, name), CreatedIndex: s.CurrentIndex, ModifiedIndex: s.CurrentIndex, Value: value}
	n.Children[name] = leaf
	s.WatcherHub.EventHistory.add(&v2Event{action, v2EventNode{leaf.Path, value, s.CurrentIndex, s.CurrentIndex}})
}

func (h *v2History) add(e *v2Event) {
	q := &h.Queue
	q.Events[q.Back] = e
	q.Back = (q.Back + 1) % q.Capacity
	if q.Size == q.Capacity {
		q.Front = (q.Front + 1) % q.Capacity
	} else {
		q.Size++
	}
	h.LastIndex = e.Node.ModifiedIndex
	h.StartIndex = q.Events[q.Front].Node.ModifiedIndex
}

func (s *v2Store) create(value string, names ...string) {
	s.write("create", value, names...)
	s.Stats.CreateSuccess++
}

func (s *v2Store) set(value string, names ...string) {
	s.write("set", value, names...)
	s.Stats.SetsSuccess++
}

// V2Snapshot returns the members, the removed ids and the version in the form that etcd puts into snapshot files.
func (c *Cluster) V2Snapshot() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := newV2Store()
	for _, m := range c.list(func(*Member) bool { return true }) {
		value, err := json.Marshal(m.RaftAttributes)
		if err != nil {
			return nil, err
		}
		s.create(string(value), "0", "members", FormatID(m.ID), "raftAttributes")
		if m.ClientURLs == nil {
			continue
		}
		if value, err = json.Marshal(m.Attributes); err != nil {
			return nil, err
		}
		s.set(string(value), "0", "members", FormatID(m.ID), "attributes")
	}
	removed := make([]uint64, 0, len(c.removed))
	for id := range c.removed {
		removed = append(removed, id)
	}
	slices.Sort(removed)
	for _, id := range removed {
		s.create("", "0", "removed_members", FormatID(id))
	}
	if c.version != nil {
		s.set(c.version.String(), "0", "version")
	}
	return json.Marshal(s)
}
