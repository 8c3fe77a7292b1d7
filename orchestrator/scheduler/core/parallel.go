package core

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// grain is the least number of calls that is worth a goroutine.
const grain = 32

// parallel calls f for 0..n-1 in at most limit goroutines, until one call returns false.
func parallel(limit, n int, f func(i int) bool) {
	workers := min(limit, runtime.GOMAXPROCS(0), (n+grain-1)/grain)
	if workers <= 1 {
		for i := 0; i < n && f(i); i++ {
		}
		return
	}
	var next atomic.Int64
	var stopped atomic.Bool
	work := func() {
		for !stopped.Load() {
			from := int(next.Add(grain)) - grain
			if from >= n {
				return
			}
			for i := from; i < min(from+grain, n); i++ {
				if !f(i) {
					stopped.Store(true)
					return
				}
			}
		}
	}
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}
