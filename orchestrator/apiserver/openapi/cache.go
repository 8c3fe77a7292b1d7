package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
	"sync"
)

// document is made when it is first asked for, and kept compressed: to a tenth of its size.
type document struct {
	content  content
	make     func(c *content) ([]byte, error)
	protobuf func(text []byte) ([]byte, error)

	mu     sync.Mutex
	text   *packed // JSON
	binary *packed // protobuf
}

// packed is a document in one form.
type packed struct {
	hash string // of the JSON, for both forms
	gzip []byte
}

// json returns the document in JSON.
func (d *document) json() (*packed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.jsonLocked()
}

func (d *document) jsonLocked() (*packed, error) {
	if d.text != nil {
		return d.text, nil
	}
	text, err := d.make(&d.content)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	d.text, err = pack(strings.ToUpper(hex.EncodeToString(sum[:])), text)
	return d.text, err
}

// proto returns the document in protobuf.
func (d *document) proto() (*packed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.binary != nil {
		return d.binary, nil
	}
	p, err := d.jsonLocked()
	if err != nil {
		return nil, err
	}
	text, err := p.unpack()
	if err != nil {
		return nil, err
	}
	binary, err := d.protobuf(text)
	if err != nil {
		return nil, err
	}
	d.binary, err = pack(p.hash, binary)
	return d.binary, err
}

func pack(hash string, text []byte) (*packed, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return &packed{hash: hash, gzip: bytes.Clone(b.Bytes())}, nil
}

func (p *packed) unpack() ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(p.gzip))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
