package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/keelson-io/keelson/server/backup/store"
)

// maxSegment bounds the bytes of a segment's object.
const maxSegment = 4 << 30

// PutSegment writes a segment and reads it back.
func PutSegment(ctx context.Context, st store.Store, s *Segment, object []byte) error {
	if err := st.Put(ctx, s.Name(), bytes.NewReader(object), int64(len(object))); err != nil {
		return err
	}
	if _, err := segmentBytes(ctx, st, s); err != nil {
		return fmt.Errorf("what was written is not what is read back: %w", err)
	}
	return nil
}

// segmentBytes reads a segment's object and checks it against its name.
func segmentBytes(ctx context.Context, st store.Store, s *Segment) ([]byte, error) {
	r, err := st.Get(ctx, s.Name())
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxSegment))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); sum != s.Sum {
		return nil, fmt.Errorf("%s: %w", s.Name(), damaged("its sha256 is %x", sum))
	}
	return b, nil
}

// OpenSegment reads a segment. Its contents have been found to be those that its name says; ErrDamaged.
func OpenSegment(ctx context.Context, st store.Store, s *Segment) (*Reader, error) {
	b, err := segmentBytes(ctx, st, s)
	if err != nil {
		return nil, err
	}
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name(), err)
	}
	if h := r.Head(); h.FirstIndex != s.First || h.Chain != s.Chain {
		r.Close()
		return nil, fmt.Errorf("%s: %w", s.Name(), damaged("it holds chain %q from entry %d on", h.Chain, h.FirstIndex))
	}
	return r, nil
}

// ReadTail reads a segment to its end and returns its last entry.
func ReadTail(ctx context.Context, st store.Store, s *Segment) (Tail, error) {
	r, err := OpenSegment(ctx, st, s)
	if err != nil {
		return Tail{}, err
	}
	defer r.Close()
	for {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return Tail{}, fmt.Errorf("%s: %w", s.Name(), err)
		}
	}
	t := r.Tail()
	if t.Index != s.Last {
		return Tail{}, fmt.Errorf("%s: %w", s.Name(), damaged("its last entry is %d", t.Index))
	}
	t.Revision, t.Time = s.After, s.To.UnixNano()
	return t, nil
}

// PutBase writes a base from its database and reads it back.
func PutBase(ctx context.Context, st store.Store, b *Base, db io.Reader) error {
	pr, pw := io.Pipe()
	go func() {
		zw, err := zstd.NewWriter(pw, zstd.WithEncoderConcurrency(1))
		if err == nil {
			_, err = io.Copy(zw, db)
			err = errors.Join(err, zw.Close())
		}
		_ = pw.CloseWithError(err)
	}()
	counted := &counter{r: pr}
	err := st.Put(ctx, b.Name(), counted, -1)
	_ = pr.Close()
	if err != nil {
		return err
	}
	b.Size = counted.n
	if err := CopyBase(ctx, st, b, io.Discard); err != nil {
		return fmt.Errorf("what was written is not what is read back: %w", err)
	}
	return nil
}

type counter struct {
	r io.Reader
	n int64
}

// Read is io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// CopyBase writes the database of a base. What was written is to be used only if it returns nil; ErrDamaged.
func CopyBase(ctx context.Context, st store.Store, b *Base, w io.Writer) error {
	r, err := st.Get(ctx, b.Name())
	if err != nil {
		return err
	}
	defer r.Close()
	zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("%s: %w", b.Name(), damaged("%v", err))
	}
	defer zr.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, h), &checked{r: zr}); err != nil {
		return fmt.Errorf("%s: %w", b.Name(), err)
	}
	return sumIs(h, b)
}

// checked says of a reader's errors that they are damage: they are the decoder's.
type checked struct{ r io.Reader }

// Read is io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
		err = damaged("%v", err)
	}
	return n, err
}

func sumIs(h hash.Hash, b *Base) error {
	if sum := h.Sum(nil); !bytes.Equal(sum, b.Sum[:]) {
		return fmt.Errorf("%s: %w", b.Name(), damaged("the sha256 of the database is %x", sum))
	}
	return nil
}
