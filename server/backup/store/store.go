package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
)

// Store holds objects.
type Store interface {
	// Put writes an object; one of the name is replaced. size is -1 if it is not known.
	Put(ctx context.Context, name string, r io.Reader, size int64) error
	// Get reads an object. ErrNotFound.
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	// List returns the objects whose name begins with a prefix, in the order of their names.
	List(ctx context.Context, prefix string) ([]Object, error)
	// Delete removes an object. That there is none is no error.
	Delete(ctx context.Context, name string) error
	// String is where the store is, for people.
	String() string
}

// Object is an object without its contents.
type Object struct {
	Name string
	Size int64 // in bytes
}

// Errors of this package.
var (
	ErrNotFound = fs.ErrNotExist
	errName     = errors.New("not a name of an object")
)

// S3Options say how to reach a bucket. Credentials come from the environment, as AWS names them.
type S3Options struct {
	Endpoint string // URL of the service, "": Amazon's
	Region   string // "": found out
	CAFile   string // the authorities that the service's certificate is verified with; "": the system's
}

// Open opens the store at a place: a directory, or s3://bucket/prefix.
func Open(place string, o S3Options) (Store, error) {
	scheme, rest, found := strings.Cut(place, "://")
	switch {
	case place == "":
		return nil, errors.New("no archive was named: a directory, or s3://bucket/prefix")
	case !found:
		return openDir(place)
	case scheme == "file":
		return openDir(rest)
	case scheme == "s3":
		return openS3(rest, o)
	}
	return nil, fmt.Errorf("%s: an archive is a directory, or s3://bucket/prefix", place)
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("%q: %w", name, errName)
	}
	return nil
}
