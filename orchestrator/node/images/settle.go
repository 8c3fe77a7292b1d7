package images

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"go.uber.org/zap"
)

// settler writes new layers to the disk for good, some time after they were unpacked: a pod should not wait for that. Until
// then the note on a layer bears the start of the machine at which it was unpacked, and is of no worth after the next one.
type settler struct {
	s    *Store
	wake chan struct{}
	quit chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	keys []string
}

func newSettler(s *Store) *settler {
	t := &settler{s: s, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	entries, _ := os.ReadDir(filepath.Join(s.dir, layersDir))
	for _, e := range entries {
		if m, err := s.layerMeta(e.Name()); err == nil && m.Boot != "" {
			t.add(e.Name())
		}
	}
	t.done.Go(t.run)
	return t
}

func (t *settler) add(key string) {
	t.mu.Lock()
	t.keys = append(t.keys, key)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *settler) stop() {
	close(t.quit)
	t.done.Wait()
}

func (t *settler) run() {
	for {
		select {
		case <-t.quit:
			return
		case <-t.wake:
		}
		timer := t.s.clk.NewTimer(t.s.cfg.Settle)
		select {
		case <-t.quit:
			timer.Stop()
			return
		case <-timer.C():
		}
		if err := t.settle(); err != nil {
			t.s.lg.Warn("images: new layers are not on the disk for good", zap.Error(err))
		}
	}
}

// settle syncs the file system and then says so in the notes of the layers that were complete before.
func (t *settler) settle() error {
	t.mu.Lock()
	keys := t.keys
	t.keys = nil
	t.mu.Unlock()
	if len(keys) == 0 {
		return nil
	}
	if err := syncFS(filepath.Join(t.s.dir, layersDir)); err != nil {
		return err
	}
	var all error
	for _, key := range keys {
		m, err := t.s.layerMeta(key)
		if err != nil || m.Boot != t.s.boot {
			continue // removed, or settled by another process
		}
		m.Boot = ""
		b, err := json.Marshal(m)
		if err == nil {
			err = writeFile(filepath.Join(t.s.dir, layersDir, key, layerMeta), b)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// unsettled moves layers out of the way that may be incomplete, because the machine went down before they were on the disk.
// They are unpacked again when they are needed. The caller holds the store's lock.
func (s *Store) unsettled() (rubbish []string, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, layersDir))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() == emptyLayer {
			continue
		}
		if m, err := s.layerMeta(e.Name()); err == nil && (m.Boot == "" || m.Boot == s.boot) {
			continue
		}
		to, err := s.setAside(filepath.Join(s.dir, layersDir, e.Name()))
		if err != nil {
			return rubbish, err
		}
		rubbish = append(rubbish, to)
	}
	return rubbish, nil
}
