package scheduler

import "sync"

// mailbox takes what has to be done by the goroutine of Run.
type mailbox struct {
	mu      sync.Mutex
	letters []func()
	bell    chan struct{}
}

func newMailbox() *mailbox { return &mailbox{bell: make(chan struct{}, 1)} }

func (m *mailbox) post(f func()) {
	m.mu.Lock()
	m.letters = append(m.letters, f)
	m.mu.Unlock()
	select {
	case m.bell <- struct{}{}:
	default:
	}
}

// take empties the mailbox; spare is used for what comes next.
func (m *mailbox) take(spare []func()) []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	letters := m.letters
	m.letters = spare[:0]
	return letters
}
