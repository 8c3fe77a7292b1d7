package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Raft takes what the transport receives and learns. Its methods are called from many goroutines at once, also from
// within Send; none but Step may block, and Step only for as long as the sender may be kept from sending more.
type Raft interface {
	// Step takes a message from another member and owns it from then on.
	Step(ctx context.Context, m *raftpb.Message) error
	// IsIDRemoved reports whether a member has been removed from the cluster for good. It is asked for every message.
	IsIDRemoved(id uint64) bool
	// ReportUnreachable tells that messages to a member were lost.
	ReportUnreachable(id uint64)
	// ReportSnapshot tells how sending a snapshot to a member ended.
	ReportSnapshot(id uint64, failed bool)
}

// Snapshots keeps the databases that come with snapshots.
type Snapshots interface {
	// SaveDB makes the database of the snapshot at index durable and returns its size. After an error nothing is left.
	SaveDB(r io.Reader, index uint64) (int64, error)
}

// Config is what a Transport is made of. Zero values of the durations mean the default named beside them.
type Config struct {
	ID, ClusterID uint64
	LocalURLs     []string // this member's advertised peer URLs
	Raft          Raft
	Snapshots     Snapshots

	DialTimeout       time.Duration // 2s
	ReadTimeout       time.Duration // 5s: silence after which a connection counts as broken
	WriteTimeout      time.Duration // 5s: how long the other side may take nothing
	HeartbeatInterval time.Duration // ReadTimeout/3: how often a stream says that it is alive
	RetryInterval     time.Duration // 100ms: at least between two dials of a stream
	ProbeInterval     time.Duration // ReadTimeout*4/5: how often the round trip time is measured
	SnapshotStall     time.Duration // 1m: how long no byte of a database may move
	SnapshotAnswer    time.Duration // 5m: how long the receiver may take to make a database durable

	Source     net.Addr              // where connections to peers come from; nil: the system chooses
	TLS        func() *tls.Config    // asked for each connection to an https URL; nil: the system's roots, no certificate
	Logger     *zap.Logger           // nil: none
	Registerer prometheus.Registerer // nil: none
}

// Errors of this package. They are logged and returned wrapped.
var (
	// ErrMemberRemoved says that another member holds this one, or the sender, for removed from the cluster.
	ErrMemberRemoved = errors.New("the member has been permanently removed from the cluster")
	// ErrClusterIDMismatch says that the two members belong to different clusters. Its text is part of the protocol.
	ErrClusterIDMismatch = errors.New("cluster ID mismatch")
	// ErrIncompatibleVersion says that the versions of two members cannot work together. Its text is part of the protocol.
	ErrIncompatibleVersion = errors.New("incompatible version")

	errStopped      = errors.New("transport: stopped")
	errSuperseded   = errors.New("transport: replaced by a newer stream")
	errClosedByPeer = errors.New("transport: closed by the reader")
	errWrongMember  = errors.New("cannot process message to mismatch member")
	errFromRemoved  = errors.New("cannot process message from removed member")
	errCut          = errors.New("transport: cut off for a test")
)

func orDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}

func (c *Config) fill() error {
	switch {
	case c.ID == 0:
		return errors.New("transport: ID is required")
	case c.Raft == nil || c.Snapshots == nil:
		return errors.New("transport: Raft and Snapshots are required")
	}
	orDefault(&c.DialTimeout, 2*time.Second)
	orDefault(&c.ReadTimeout, 5*time.Second)
	orDefault(&c.WriteTimeout, 5*time.Second)
	orDefault(&c.HeartbeatInterval, c.ReadTimeout/3)
	orDefault(&c.RetryInterval, 100*time.Millisecond)
	orDefault(&c.ProbeInterval, c.ReadTimeout*4/5)
	orDefault(&c.SnapshotStall, time.Minute)
	orDefault(&c.SnapshotAnswer, 5*time.Minute)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return nil
}
