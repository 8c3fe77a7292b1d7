package images

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/images/registry"
)

// copyChunk is after how many bytes progress is told.
const copyChunk = 256 << 10

// download sees to it that a blob is there. However many ask for one, in whatever process, one of them gets it; when that one
// gives up, the next goes on where it stopped.
func (s *Store) download(ctx context.Context, repo *registry.Repository, want ocispec.Descriptor, told func(int64)) error {
	path := filepath.Join(s.dir, ingestDir, want.Digest.Encoded())
	if s.hasBlob(want.Digest) {
		told(want.Size)
		return nil
	}
	f, err := flockWait(ctx, path, func() {
		if info, err := os.Stat(path); err == nil {
			told(info.Size())
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if s.hasBlob(want.Digest) {
		_ = os.Remove(path)
		told(want.Size)
		return nil
	}
	done, err := acquire(ctx, s.downloads)
	if err != nil {
		return err
	}
	defer done()
	d := &ingest{f: f, sum: digest.SHA256.Hash(), told: told}
	if err := s.receive(ctx, repo, want, d); err != nil {
		if d.size == 0 || errors.Is(err, ErrCorrupt) {
			_ = os.Remove(path) // nothing to go on with
		}
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	if err := os.Rename(path, s.blobPath(want.Digest)); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	return syncDir(filepath.Join(s.dir, blobsDir))
}

// receive gets a blob, from where an earlier attempt has stopped. If that did not come to a good end, it begins anew, once.
func (s *Store) receive(ctx context.Context, repo *registry.Repository, want ocispec.Descriptor, d *ingest) error {
	if err := d.resume(want.Size); err != nil {
		return err
	}
	resumed := d.size > 0
	for {
		if err := s.fetch(ctx, repo, want, d); err != nil {
			return err
		}
		got := digest.NewDigest(digest.SHA256, d.sum)
		if got == want.Digest {
			return nil
		}
		if !resumed {
			return fmt.Errorf("%s from the registry %s is %w: its digest is %s", want.Digest, d.host, ErrCorrupt, got)
		}
		resumed = false
		if err := d.restart(); err != nil {
			return fmt.Errorf("images: %w", err)
		}
	}
}

// ingest is a blob on its way into the store.
type ingest struct {
	f    *os.File
	size int64
	sum  hash.Hash // of the first size bytes
	told func(int64)
	host string // that sent the last part
}

// resume takes in what an earlier attempt has left.
func (d *ingest) resume(limit int64) error {
	n, err := io.Copy(d.sum, io.LimitReader(d.f, limit))
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	d.size = n
	d.told(n)
	return d.f.Truncate(n)
}

// restart throws away what is there.
func (d *ingest) restart() error {
	d.size = 0
	d.sum.Reset()
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return d.f.Truncate(0)
}

// fetch gets the rest of a blob, in several parts if it must. What broke off is tried again as long as more arrives.
func (s *Store) fetch(ctx context.Context, repo *registry.Repository, want ocispec.Descriptor, d *ingest) error {
	for d.size < want.Size {
		before := d.size
		err := d.part(ctx, repo, want)
		if err == nil && d.size < want.Size {
			err = fmt.Errorf("the registry %s sent %d of %d bytes of %s: %w", d.host, d.size, want.Size, want.Digest, ErrCorrupt)
			if d.size > before {
				continue
			}
		}
		if err != nil && (d.size <= before || !registry.Temporary(err)) {
			return err
		}
	}
	return nil
}

// part gets one answer of a registry.
func (d *ingest) part(ctx context.Context, repo *registry.Repository, want ocispec.Descriptor) error {
	body, at, host, err := repo.Blob(ctx, want.Digest.String(), d.size, want.Size)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	d.host = host
	if at != d.size {
		if err := d.restart(); err != nil {
			return fmt.Errorf("images: %w", err)
		}
	}
	buf := make([]byte, copyChunk)
	for {
		n, rerr := body.Read(buf)
		if d.size += int64(n); d.size > want.Size {
			_ = d.restart()
			return fmt.Errorf("the registry %s sends more than the %d bytes of %s: %w", host, want.Size, want.Digest, ErrCorrupt)
		}
		if _, err := d.f.Write(buf[:n]); err != nil {
			if errors.Is(err, unix.ENOSPC) {
				_ = d.restart() // gives back the space
			}
			return fmt.Errorf("images: %w", err)
		}
		_, _ = d.sum.Write(buf[:n])
		d.told(d.size)
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return rerr
		}
	}
}
