package images

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// packer writes the layer of a build.
type packer struct {
	ctx    context.Context
	tw     *tar.Writer
	time   time.Time
	owners bool
	based  bool              // it goes on top of an image
	made   map[string]bool   // directories that are in the archive
	links  map[fileID]string // first names of files with several
	buf    []byte
}

// fileID tells files of a machine apart.
type fileID struct{ dev, ino uint64 }

// pack writes the layer of a build to a file of the operation's, and returns the digest of its content too.
func (o *op) pack(ctx context.Context, req BuildRequest) (spooled, digest.Digest, error) {
	pr, pw := io.Pipe()
	sum := digest.SHA256.Hash()
	done := make(chan error, 1)
	go func() {
		zw := gzip.NewWriter(pw)
		p := &packer{ctx: ctx, tw: tar.NewWriter(io.MultiWriter(sum, zw)), time: req.Created, owners: req.Owners, based: req.Base != "",
			made: map[string]bool{}, links: map[fileID]string{}, buf: make([]byte, copyChunk)}
		err := p.all(req)
		if err == nil {
			err = p.tw.Close()
		}
		if err == nil {
			err = zw.Close()
		}
		_ = pw.CloseWithError(err)
		done <- err
	}()
	sp, err := o.spool(pr)
	_ = pr.CloseWithError(err)
	if perr := <-done; perr != nil {
		err = perr
	}
	return sp, digest.NewDigest(digest.SHA256, sum), err
}

func (p *packer) all(req BuildRequest) error {
	if req.Dir != "" {
		if err := p.tree(req.Dir); err != nil {
			return err
		}
	}
	files := maps.Clone(req.Files)
	if req.Binary != "" {
		if files == nil {
			files = map[string]string{}
		}
		files["/"+filepath.Base(req.Binary)] = req.Binary
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		target, err := targetOf(name)
		if err != nil {
			return err
		}
		info, err := os.Stat(files[name])
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is %w: no regular file", files[name], ErrInvalid)
		}
		if err := p.parents(path.Dir(target)); err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: target, Size: info.Size(), Mode: int64(info.Mode().Perm())}
		if files[name] == req.Binary {
			h.Mode |= 0o111
		}
		if err := p.file(h, files[name]); err != nil {
			return err
		}
	}
	return nil
}

// parents adds the directories that a file lies in and that are not there yet. On a base they are left out: it may have them,
// with other owners and modes, which the unpacker takes over.
func (p *packer) parents(dir string) error {
	if dir == "." || p.based || p.made[dir] {
		return nil
	}
	if err := p.parents(path.Dir(dir)); err != nil {
		return err
	}
	p.made[dir] = true
	return p.header(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

// tree adds a directory's content.
func (p *packer) tree(root string) error {
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := p.ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if rel == "." && !info.IsDir() {
			return fmt.Errorf("%s is %w: no directory", root, ErrInvalid)
		}
		return p.entry(name, filepath.ToSlash(rel), info)
	})
}

func (p *packer) entry(name, rel string, info fs.FileInfo) error {
	if strings.HasPrefix(path.Base(rel), ".wh.") {
		return fmt.Errorf("%s is %w: names in an image must not begin with %q", name, ErrInvalid, ".wh.")
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // means nothing without its process
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = rel
	if info.IsDir() {
		h.Name += "/"
		p.made[rel] = true
	}
	if !p.owners {
		h.Uid, h.Gid = 0, 0
	}
	if id, several := identity(info); several && info.Mode().IsRegular() {
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.header(h)
		}
		p.links[id] = rel
	}
	if h.PAXRecords, err = attributes(name, info); err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		return p.file(h, name)
	}
	return p.header(h)
}

func (p *packer) header(h *tar.Header) error {
	h.ModTime, h.AccessTime, h.ChangeTime = p.time, time.Time{}, time.Time{}
	h.Uname, h.Gname = "", ""
	h.Format = tar.FormatPAX
	return p.tw.WriteHeader(h)
}

func (p *packer) file(h *tar.Header, name string) error {
	if err := p.header(h); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	n, err := io.CopyBuffer(struct{ io.Writer }{p.tw}, struct{ io.Reader }{io.LimitReader(f, h.Size)}, p.buf)
	if err == nil && n != h.Size {
		err = fmt.Errorf("%s became shorter while it was read", name)
	}
	return err
}
