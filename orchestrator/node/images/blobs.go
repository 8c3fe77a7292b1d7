package images

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// spooled is a file of an operation whose digest is known.
type spooled struct {
	path   string
	digest digest.Digest
	size   int64
}

// spool writes a stream to a file of the operation's own.
func (o *op) spool(r io.Reader) (sp spooled, err error) {
	dir, err := o.dir()
	if err != nil {
		return sp, err
	}
	f, err := os.Create(filepath.Join(dir, "spool-"+uuid.NewString()))
	if err != nil {
		return sp, fmt.Errorf("images: %w", err)
	}
	defer func() { _ = f.Close() }()
	sum := digest.SHA256.Hash()
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.TeeReader(r, sum), make([]byte, copyChunk))
	if err != nil {
		return sp, fmt.Errorf("images: %w", err)
	}
	return spooled{path: f.Name(), digest: digest.NewDigest(digest.SHA256, sum), size: n}, nil
}

// keep makes a blob of a file, which is moved.
func (o *op) keep(sp spooled) error {
	if err := o.claim(sp.digest.String()); err != nil {
		return err
	}
	if o.s.hasBlob(sp.digest) {
		return nil
	}
	f, err := os.Open(sp.path)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	err = f.Sync()
	_ = f.Close()
	if err == nil {
		err = os.Rename(sp.path, o.s.blobPath(sp.digest))
	}
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	return syncDir(filepath.Join(o.s.dir, blobsDir))
}
