package logs

import "time"

// watcher tells of changes in the folder of a log.
type watcher struct {
	changed <-chan struct{}
	stop    func()
}

// poll is how often files are looked at where the system does not tell of changes.
const poll = 100 * time.Millisecond

// polled tells again and again that there may be a change.
func polled() *watcher {
	changed, done := make(chan struct{}, 1), make(chan struct{})
	t := time.NewTicker(poll)
	go func() {
		for {
			select {
			case <-t.C:
			case <-done:
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return &watcher{changed: changed, stop: func() {
		t.Stop()
		close(done)
	}}
}

func (w *watcher) close() { w.stop() }
