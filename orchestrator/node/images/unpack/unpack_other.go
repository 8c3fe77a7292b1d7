//go:build !linux

package unpack

import (
	"context"
	"io"
)

// Supported tells whether this process can unpack layers.
func Supported() bool { return false }

// Layer unpacks an uncompressed tar into the empty directory dir.
func Layer(context.Context, io.Reader, string, Options) (Result, error) {
	return Result{}, ErrUnsupported
}
