package propose

import (
	"sync/atomic"
	"time"
)

// IDs makes request IDs that are unique in the cluster and over restarts of the member:
//
//	| 2 bytes: low bytes of the member's id | 5 bytes: start time in ms | 1 byte: counter |
//
// The counter runs over into the time: there is room for 256 IDs per millisecond on average before an ID could return
// after a restart.
type IDs struct {
	prefix uint64
	suffix atomic.Uint64
}

// NewIDs starts a generator for a member at a time.
func NewIDs(member uint64, now time.Time) *IDs {
	g := &IDs{prefix: member << 48}
	g.suffix.Store(uint64(now.UnixMilli()) & (1<<40 - 1) << 8)
	return g
}

// Next returns the next ID, never 0.
func (g *IDs) Next() uint64 {
	for {
		if id := g.prefix | g.suffix.Add(1)&(1<<48-1); id != 0 {
			return id
		}
	}
}
