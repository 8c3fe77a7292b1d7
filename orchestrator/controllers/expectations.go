package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/internal/clock"
)

// expectationLife is after how long something that was asked for and never seen is forgotten.
const expectationLife = 5 * time.Minute

// expectations are what controllers asked the API server for and have not seen yet, by the key of the owner.
type expectations struct {
	clock clock.Clock
	mu    sync.Mutex
	by    map[string]*expected
}

type expected struct {
	creations int
	deletions map[types.UID]struct{}
	since     time.Time
}

func newExpectations(c clock.Clock) *expectations {
	return &expectations{clock: c, by: map[string]*expected{}}
}

// fulfilled says whether everything that was expected for a key has been seen, or is too old.
func (e *expectations) fulfilled(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.by[key]
	if x == nil {
		return true
	}
	if x.creations > 0 || len(x.deletions) > 0 {
		if e.clock.Now().Sub(x.since) < expectationLife {
			return false
		}
	}
	delete(e.by, key)
	return true
}

func (e *expectations) get(key string) *expected {
	x := e.by[key]
	if x == nil {
		x = &expected{deletions: map[types.UID]struct{}{}}
		e.by[key] = x
	}
	x.since = e.clock.Now()
	return x
}

// expectCreations is called before so many objects are created.
func (e *expectations) expectCreations(key string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.get(key).creations += n
}

// expectDeletion is called before an object is deleted.
func (e *expectations) expectDeletion(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.get(key).deletions[uid] = struct{}{}
}

// created is called when an object was seen, or was not created after all.
func (e *expectations) created(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.by[key]; x != nil && x.creations > 0 {
		x.creations--
	}
}

// deleted is called when an object was seen to go, or to be marked, or was not deleted after all.
func (e *expectations) deleted(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.by[key]; x != nil {
		delete(x.deletions, uid)
	}
}

// forget is called when the owner is gone.
func (e *expectations) forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.by, key)
}
