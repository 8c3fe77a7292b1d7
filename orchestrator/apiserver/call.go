package apiserver

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/media"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// maxBody bounds request bodies, in bytes.
const maxBody = 3 << 20

// call is a request for a resource that is being served.
type call struct {
	s      *Server
	w      http.ResponseWriter
	r      *http.Request
	info   *request.Info
	query  url.Values
	format *media.Format
	res    *verbs.Resource
	shown  media.Options
	warned map[string]bool
	// unbound takes the deadline of writing from the connection, nil: there is none.
	unbound func()
}

func (c *call) ctx() context.Context { return c.r.Context() }

// body reads the request's body. 413 if it is too large.
func (c *call) body() ([]byte, error) {
	b, err := c.readBody(maxBody)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, apierrors.NewRequestEntityTooLargeError("limit is " + strconv.Itoa(maxBody))
	case errors.Is(err, errTookTooLong):
		return nil, err
	case err != nil:
		return nil, apierrors.NewBadRequest("reading the body: " + err.Error())
	}
	return b, nil
}

// warn adds a warning to the answer.
func (c *call) warn(text string) {
	text = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
	if c.warned[text] {
		return
	}
	if c.warned == nil {
		c.warned = map[string]bool{}
	}
	c.warned[text] = true
	c.w.Header().Add("Warning", `299 - `+strconv.Quote(text))
}

// target says what a write is about. options is what came with it.
func (c *call) target(options runtime.Object, manager, validation string, dryRun []string) (*verbs.Target, error) {
	for _, d := range dryRun {
		if d != metav1.DryRunAll {
			return nil, apierrors.NewBadRequest(`invalid dryRun value "` + d + `": only "All" is supported`)
		}
	}
	return &verbs.Target{
		Namespace: c.info.Namespace, Name: c.info.Name, Subresource: c.info.Subresource, Manager: managerOf(c.r, manager),
		Validation: validation, DryRun: len(dryRun) > 0, User: request.UserFrom(c.ctx()), Options: options, Warn: c.warn,
		Annotate: func(key, value string) { audit.Annotate(c.ctx(), key, value) },
	}, nil
}

// managerOf names who manages the fields that a request sets: as the request says, or the client's program.
func managerOf(r *http.Request, asked string) string {
	if asked != "" {
		return asked
	}
	name, _, _ := strings.Cut(r.UserAgent(), "/")
	if len(name) > 128 {
		name = name[:128]
	}
	if name == "" {
		return "unknown"
	}
	return name
}

// item answers with an object.
func (c *call) item(code int, it *objectstore.Item) error {
	b, err := c.format.Object(c.res.Kind, it, c.shown)
	if err != nil {
		return err
	}
	c.answered(it)
	return c.write(code, b)
}

// any answers with what is no stored object.
func (c *call) any(code int, o runtime.Object) error {
	b, err := c.format.Any(o)
	if err != nil {
		return err
	}
	c.answeredAny(o)
	return c.write(code, b)
}

func (c *call) write(code int, b []byte) error {
	var out io.Writer = c.w
	if c.head(code, len(b)) {
		z := c.s.compressor(c.w)
		defer z.Close()
		out = z
	}
	_, _ = out.Write(b) // the client is gone
	return nil
}

// begin begins an answer that is written in pieces. size is about how long it will be, in bytes.
func (c *call) begin(code, size int) io.WriteCloser {
	if c.head(code, size) {
		return c.s.compressor(c.w)
	}
	return &plain{*bufio.NewWriterSize(c.w, min(size+1, maxBuffer))}
}

// head writes the header of an answer, and says whether it is to be compressed.
func (c *call) head(code, size int) (compressed bool) {
	if size >= boundFrom {
		c.unbound = c.boundWrite()
	}
	h := c.w.Header()
	h.Set("Content-Type", c.format.ContentType())
	h.Set("Cache-Control", "no-cache, private")
	h.Add("Vary", "Accept-Encoding")
	if compressed = size >= compressFrom && strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip"); compressed {
		h.Set("Content-Encoding", "gzip")
	}
	c.w.WriteHeader(code)
	return compressed
}

// Answers are compressed from compressFrom on, and otherwise written in pieces of maxBuffer at most. From boundFrom on writing
// has a deadline; what is shorter is on its way at once. All are in bytes.
const (
	boundFrom    = 16 << 10
	compressFrom = 128 << 10
	maxBuffer    = 64 << 10
)

// zipped writes with compression.
type zipped struct {
	*gzip.Writer
	pool *sync.Pool
}

// compressor returns one that has a megabyte of tables already, if there is one.
func (s *Server) compressor(w io.Writer) *zipped {
	z, ok := s.compressors.Get().(*gzip.Writer)
	if !ok {
		z, _ = gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is one that there is
	}
	z.Reset(w)
	return &zipped{z, &s.compressors}
}

// Close ends the compressed data.
func (z *zipped) Close() error {
	if err := z.Writer.Close(); err != nil {
		return err // a write that failed may be going on: the tables are not used again
	}
	z.Reset(io.Discard)
	z.pool.Put(z.Writer)
	return nil
}

// plain writes without compression.
type plain struct{ bufio.Writer }

func (p *plain) Close() error { return p.Flush() }
