// Package webui serves web pages that are embedded in the binary: plain HTML, CSS and ES modules, without a build step. What pages
// share (the style, and modules for elements, charts, differences, formats and calls of the JSON gateway) lies in base and is
// served beside each page's own files, under base/.
//
// A page can load and reach only what the member itself serves; it runs no inline script and cannot be framed.
package webui

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed base
var base embed.FS

// types are the files that a page may have.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

// policy lets a page use nothing but its own origin.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// file is one file, ready to be sent.
type file struct {
	data       []byte
	kind, etag string
}

// Handler serves a page, whose index.html is at /, and what pages share. It panics if a file has a type that pages have not:
// files are compiled in.
func Handler(page fs.FS) http.Handler {
	files := map[string]file{}
	for _, from := range []fs.FS{base, page} {
		err := fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(from, name)
			sum := sha256.Sum256(data)
			kind := types[path.Ext(name)]
			if kind == "" {
				panic("webui: a page has no files like " + name)
			}
			files["/"+name] = file{data, kind, `"` + hex.EncodeToString(sum[:12]) + `"`}
			return err
		})
		if err != nil {
			panic(err)
		}
	}
	files["/"] = files["/index.html"]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, files) })
}

func serve(w http.ResponseWriter, r *http.Request, files map[string]file) {
	f, ok := files[r.URL.Path]
	switch {
	case !ok:
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers"} {
		h.Del(name) // no other page has any use for it
	}
	h.Set("Content-Type", f.kind)
	h.Set("ETag", f.etag)
	h.Set("Cache-Control", "no-cache") // ask each time whether it has changed
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	http.ServeContent(w, r, strings.TrimPrefix(r.URL.Path, "/"), time.Time{}, bytes.NewReader(f.data))
}
