package backend

import (
	"bytes"
	"maps"
	"slices"

	"go.etcd.io/bbolt"
)

// rows are changes of small buckets: a nil value is a removed row.
type rows [bucketCount]map[string][]byte

func (r *rows) set(bk Bucket, key string, value []byte) {
	if r[bk] == nil {
		r[bk] = make(map[string][]byte)
	}
	r[bk][key] = value
}

func (r *rows) empty() bool { return r.len() == 0 }

func (r *rows) len() (n int) {
	for _, m := range r {
		n += len(m)
	}
	return n
}

// add puts later changes over these.
func (r *rows) add(later *rows) {
	for bk, m := range later {
		if len(r[bk]) == 0 {
			r[bk] = m
			continue
		}
		maps.Copy(r[bk], m)
	}
}

// Put writes a row. The key and value may be reused by the caller.
func (b *Backend) Put(bk Bucket, key, value []byte) {
	b.setRow(bk, key, append([]byte{}, value...))
}

// Delete removes a row.
func (b *Backend) Delete(bk Bucket, key []byte) { b.setRow(bk, key, nil) }

func (b *Backend) setRow(bk Bucket, key, value []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unpublished.rows.set(bk, string(key), value)
}

// Get reads a row as last written, published or not; nil if there is none. The value must not be changed.
func (b *Backend) Get(bk Bucket, key []byte) []byte {
	b.mu.Lock()
	for _, layer := range b.layers() {
		if v, ok := layer[bk][string(key)]; ok {
			b.mu.Unlock()
			return v
		}
	}
	// Under the lock, so that no layer moves into the file between the two looks.
	v, ok := b.View()
	b.mu.Unlock()
	if !ok {
		return nil
	}
	defer v.Release()
	return bytes.Clone(v.s.tx.tx.Bucket([]byte(bk.String())).Get(key))
}

// layers are the changes that are not in the file, newest first.
func (b *Backend) layers() [3]*rows {
	return [3]*rows{&b.unpublished.rows, &b.published.rows, &b.flushing.rows}
}

// ForEach calls fn for every row of a small bucket as last written, in the order of the keys, until fn fails.
func (b *Backend) ForEach(bk Bucket, fn func(key, value []byte) error) error {
	b.mu.Lock()
	over := map[string][]byte{}
	layers := b.layers()
	for _, layer := range slices.Backward(layers[:]) {
		maps.Copy(over, layer[bk])
	}
	v, ok := b.View()
	b.mu.Unlock()
	if !ok {
		return ErrClosed
	}
	defer v.Release()
	changed := slices.Sorted(maps.Keys(over))
	c := v.s.tx.tx.Bucket([]byte(bk.String())).Cursor()
	for k, val := c.First(); k != nil || len(changed) > 0; {
		if k == nil || len(changed) > 0 && changed[0] <= string(k) {
			if string(k) == changed[0] && k != nil {
				k, val = c.Next()
			}
			if value := over[changed[0]]; value != nil {
				if err := fn([]byte(changed[0]), value); err != nil {
					return err
				}
			}
			changed = changed[1:]
			continue
		}
		if err := fn(k, val); err != nil {
			return err
		}
		k, val = c.Next()
	}
	return nil
}

// write puts the changes into the file.
func (r *rows) write(tx *bbolt.Tx) error {
	for bk, m := range r {
		if len(m) == 0 {
			continue
		}
		bucket := tx.Bucket([]byte(Bucket(bk).String()))
		for _, key := range slices.Sorted(maps.Keys(m)) {
			var err error
			if value := m[key]; value != nil {
				err = bucket.Put([]byte(key), value)
			} else {
				err = bucket.Delete([]byte(key))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
