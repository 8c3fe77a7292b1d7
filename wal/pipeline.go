package wal

import (
	"fmt"
	"path/filepath"

	"github.com/keelson-io/keelson/internal/vfs"
)

// pipeline prepares the next segment, so that a write need not wait for its space.
type pipeline struct {
	fs    vfs.FS
	dir   string
	size  int64
	ready chan prepared
	quit  chan struct{}
	done  chan struct{}
}

type prepared struct {
	file vfs.File
	path string
	err  error
}

func startPipeline(fs vfs.FS, dir string, size int64) *pipeline {
	p := &pipeline{fs: fs, dir: dir, size: size, ready: make(chan prepared), quit: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	return p
}

func (p *pipeline) run() {
	defer close(p.done)
	for i := 0; ; i++ {
		next := p.prepare(i % 2) // the other name belongs to the file just taken, which may not be renamed yet
		select {
		case p.ready <- next:
			if next.err != nil {
				return
			}
		case <-p.quit:
			if next.err == nil {
				_ = next.file.Close()
				_ = p.fs.Remove(next.path)
			}
			return
		}
	}
}

func (p *pipeline) prepare(i int) prepared {
	path := filepath.Join(p.dir, fmt.Sprintf("%d.tmp", i))
	f, err := vfs.Create(p.fs, path)
	if err != nil {
		return prepared{err: err}
	}
	if err := f.Preallocate(p.size); err != nil {
		_ = f.Close()
		_ = p.fs.Remove(path)
		return prepared{err: err}
	}
	return prepared{file: f, path: path}
}

// take returns the next segment's file.
func (p *pipeline) take() (vfs.File, string, error) {
	select {
	case next := <-p.ready:
		return next.file, next.path, next.err
	case <-p.done:
		return nil, "", ErrClosed
	}
}

func (p *pipeline) stop() {
	close(p.quit)
	<-p.done
}
