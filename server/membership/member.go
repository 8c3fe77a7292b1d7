package membership

import (
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Why a change of the cluster is refused. The texts are etcd's.
var (
	ErrIDRemoved        = errors.New("membership: ID removed")
	ErrIDExists         = errors.New("membership: ID exists")
	ErrIDNotFound       = errors.New("membership: ID not found")
	ErrPeerURLExists    = errors.New("membership: peerURL exists")
	ErrMemberNotLearner = errors.New("membership: can only promote a learner member")
	ErrTooManyLearners  = errors.New("membership: too many learner members in cluster")
)

// RaftAttributes is what concerns consensus. It changes by configuration changes.
type RaftAttributes struct {
	PeerURLs  []string `json:"peerURLs"`
	IsLearner bool     `json:"isLearner,omitempty"`
}

// Attributes is what a member says about itself once it runs. It changes by an ordinary command.
type Attributes struct {
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Member is one member of a cluster.
type Member struct {
	ID uint64 `json:"id"`
	RaftAttributes
	Attributes
}

// ConfigChangeContext is what a configuration change that adds or promotes a member carries.
type ConfigChangeContext struct {
	Member
	// IsPromote tells a promotion from an addition: both are the same kind of change to raft.
	IsPromote bool `json:"isPromote"`
}

// NewMember makes a member that is to be added to a running cluster now: the time makes its id unlike that of an earlier
// member with the same URLs. The URLs must be valid (ValidateURLs); they are sorted.
func NewMember(peerURLs []string, learner bool, now time.Time) (*Member, error) {
	urls, err := normalURLs(peerURLs)
	if err != nil {
		return nil, err
	}
	id := memberID(urls, strconv.FormatInt(now.Unix(), 10))
	return &Member{ID: id, RaftAttributes: RaftAttributes{PeerURLs: urls, IsLearner: learner}}, nil
}

// Clone returns a deep copy; nil of nil.
func (m *Member) Clone() *Member {
	if m == nil {
		return nil
	}
	c := *m
	c.PeerURLs = slices.Clone(m.PeerURLs)
	c.ClientURLs = slices.Clone(m.ClientURLs)
	return &c
}

// IsStarted says whether the member has run: it publishes its name as soon as it does.
func (m *Member) IsStarted() bool { return m.Name != "" }

// memberID is described in the package comment; salt is the token of a founding member, the time of one added later.
func memberID(urls []string, salt string) uint64 {
	return first8([]byte(strings.Join(slices.Sorted(slices.Values(urls)), "") + salt))
}

// clusterID is described in the package comment.
func clusterID(members []uint64) uint64 {
	var b []byte
	for _, id := range slices.Sorted(slices.Values(members)) {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return first8(b)
}

func first8(b []byte) uint64 {
	sum := sha1.Sum(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// FormatID is the form of an id in keys, headers and logs.
func FormatID(id uint64) string { return strconv.FormatUint(id, 16) }

// ParseID reads what FormatID writes.
func ParseID(s string) (uint64, error) { return strconv.ParseUint(s, 16, 64) }

func byID(a, b *Member) int { return cmp.Compare(a.ID, b.ID) }
