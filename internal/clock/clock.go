// Package clock is the seam between the module and time: what must run under simulated time takes a Clock.
//
// # Concurrency
//
// All methods may be called from any goroutine, those of one Timer or Ticker from one at a time.
package clock

import "time"

// Clock tells the time and wakes up.
type Clock interface {
	Now() time.Time
	NewTimer(d time.Duration) Timer
	NewTicker(d time.Duration) Ticker
}

// Timer fires once on C. A stopped or reset timer never delivers a stale time.
type Timer interface {
	C() <-chan time.Time
	Stop() bool
	Reset(d time.Duration) bool
}

// Ticker fires on C every d; ticks that nobody takes are dropped.
type Ticker interface {
	C() <-chan time.Time
	Stop()
	Reset(d time.Duration)
}

// Real is the system's clock.
var Real Clock = system{}

type system struct{}

func (system) Now() time.Time                   { return time.Now() }
func (system) NewTimer(d time.Duration) Timer   { return timer{time.NewTimer(d)} }
func (system) NewTicker(d time.Duration) Ticker { return ticker{time.NewTicker(d)} }

type timer struct{ *time.Timer }

func (t timer) C() <-chan time.Time { return t.Timer.C }

type ticker struct{ *time.Ticker }

func (t ticker) C() <-chan time.Time { return t.Ticker.C }
