package backend

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// revFill is how full pages of revisions are packed: they are written in order and never grow.
const revFill = 0.9

// flushLoop moves what was published into the file.
func (b *Backend) flushLoop() {
	defer close(b.stopped)
	for {
		select {
		case <-b.kick:
		case <-b.closing:
			return
		}
		timer := b.cfg.Clock.NewTimer(b.cfg.BatchInterval)
		select {
		case <-timer.C():
		case <-b.hurry:
		case <-b.closing:
			timer.Stop()
			return
		}
		timer.Stop()
		if err := b.Commit(); err != nil {
			b.cfg.OnError(err)
			signal(b.kick)
		}
	}
}

// Commit makes everything published durable. After an error nothing is lost: it is tried again.
func (b *Backend) Commit() error {
	b.fileMu.Lock()
	defer b.fileMu.Unlock()
	return b.flush()
}

// flush is Commit; the caller holds fileMu.
func (b *Backend) flush() error {
	if b.current.Load() == nil {
		return ErrClosed
	}
	b.mu.Lock()
	todo := b.current.Load().window
	b.flushing.add(&b.published)
	b.published = batch{}
	b.mu.Unlock()
	if todo.len() == 0 && b.flushing.empty() {
		return nil
	}
	if err := b.roomy(&todo); err != nil {
		return err
	}
	start := b.cfg.Clock.Now()
	var written *bbolt.Tx // it keeps its statistics when it is closed
	if err := b.db.Update(func(tx *bbolt.Tx) error {
		written = tx
		return b.writeBatch(tx, &todo)
	}); err != nil {
		b.cfg.Logger.Error("failed to commit to the database, trying again", zap.String("path", b.cfg.Path), zap.Error(err))
		return fmt.Errorf("backend: commit: %w", err)
	}
	b.metrics.committed(b.cfg.Clock.Now().Sub(start), written.Stats())
	if b.journal != nil {
		b.journal.note(&b.flushing)
	}
	return b.advance(todo.len())
}

func (b *Backend) writeBatch(tx *bbolt.Tx, todo *window) error {
	revs := tx.Bucket([]byte(Key.String()))
	revs.FillPercent = revFill
	keys := make([]byte, 0, todo.len()*(revLen+1))
	for i := range todo.len() {
		rec := todo.at(i)
		at := len(keys)
		keys = AppendKey(keys, rec.rev, rec.tombstone)
		if err := revs.Put(keys[at:len(keys):len(keys)], rec.kv); err != nil {
			return err
		}
	}
	var buf [revLen + 1]byte
	for _, d := range b.flushing.deletes {
		if err := revs.Delete(AppendKey(buf[:0], d.rev, d.tombstone)); err != nil {
			return err
		}
	}
	if err := b.flushing.rows.write(tx); err != nil {
		return err
	}
	if b.flushing.index == 0 {
		return nil
	}
	meta := tx.Bucket([]byte(Meta.String()))
	if err := meta.Put(consistentIndexKey, binary.BigEndian.AppendUint64(nil, b.flushing.index)); err != nil {
		return err
	}
	return meta.Put(termKey, binary.BigEndian.AppendUint64(nil, b.flushing.term))
}

// advance lets readers see the file as it is now, and drops n records that are in it from the window.
func (b *Backend) advance(n int) error {
	tx, err := b.beginShared(b.db)
	if err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	b.mu.Lock()
	for i := range n {
		b.bytes -= int64(len(b.window.at(i).kv)) + recordOverhead
	}
	cur := b.current.Load()
	next := &state{window: cur.window, tx: tx, payload: cur.payload}
	next.window.drop(n)
	b.window.drop(n)
	b.flushing = batch{}
	b.current.Store(next)
	b.drained.Broadcast()
	b.mu.Unlock()
	cur.tx.release()
	b.measure()
	return nil
}

// measure notes the sizes of the file.
func (b *Backend) measure() {
	tx := b.current.Load().tx.tx
	size := tx.Size()
	b.metrics.size.Store(size)
	stats := b.db.Stats()
	free := int64(stats.FreePageN + stats.PendingPageN) // pending: free once no view needs them any more
	page := int64(b.db.Info().PageSize)
	b.metrics.inUse.Store(size - free*page)
	b.metrics.free.Store(free)
	b.metrics.page.Store(page)
	b.metrics.freeList.Store(int64(stats.FreelistInuse))
}

// roomy makes sure that the next commit does not have to grow the memory map, which would wait for all views. A page holds
// revisions densely; a removed revision or a row may cost a path of pages of its own.
func (b *Backend) roomy(todo *window) error {
	const path = 4
	page := int64(b.db.Info().PageSize)
	need := (int64(len(b.flushing.deletes)+b.flushing.rows.len())*path + 256) * page
	for i := range todo.len() {
		need += 2 * (int64(len(todo.at(i).kv)) + recordOverhead)
	}
	if b.current.Load().tx.tx.Size()+need < b.mapped {
		return nil
	}
	b.cfg.Logger.Info("the database outgrows its memory map and is rewritten", zap.String("path", b.cfg.Path), zap.Int64("mapped-bytes", b.mapped))
	return b.rewriteNow()
}
