package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/keelson-io/keelson/server/dial"
)

const (
	amazon = "https://s3.amazonaws.com"
	// partBytes is the size of the parts of large objects: 10,000 of them are 320 GB.
	partBytes = 32 << 20
)

// bucket is a Store in a bucket.
type bucket struct {
	client         *minio.Client
	bucket, prefix string // the prefix is empty or ends with a slash
	part           uint64 // bytes of the parts of large objects
}

func openS3(place string, o S3Options) (*bucket, error) {
	name, prefix, _ := strings.Cut(place, "/")
	if name == "" {
		return nil, fmt.Errorf("s3://%s names no bucket", place)
	}
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		if err := checkName(prefix); err != nil {
			return nil, fmt.Errorf("s3://%s: %w", place, err)
		}
		prefix += "/"
	}
	if o.Endpoint == "" {
		o.Endpoint = amazon
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("the S3 endpoint %q is not a URL such as https://host:port", o.Endpoint)
	}
	transport, err := minio.DefaultTransport(u.Scheme == "https")
	if err == nil && o.CAFile != "" {
		transport.TLSClientConfig, err = dial.TLS{CAFile: o.CAFile}.Config("s3-")
	}
	if err != nil {
		return nil, err
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewEnvAWS(), Secure: u.Scheme == "https", Region: o.Region, Transport: transport,
	})
	if err != nil {
		return nil, fmt.Errorf("s3://%s: %w", place, err)
	}
	return &bucket{client, name, prefix, partBytes}, nil
}

// String is the URL.
func (b *bucket) String() string { return "s3://" + b.bucket + "/" + b.prefix }

// Put is Store.
func (b *bucket) Put(ctx context.Context, name string, r io.Reader, size int64) error {
	if err := checkName(name); err != nil {
		return err
	}
	_, err := b.client.PutObject(ctx, b.bucket, b.prefix+name, r, size, minio.PutObjectOptions{
		ContentType: "application/octet-stream", PartSize: b.part,
	})
	return b.explain(name, err)
}

// Get is Store.
func (b *bucket) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	o, err := b.client.GetObject(ctx, b.bucket, b.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, b.explain(name, err)
	}
	if _, err := o.Stat(); err != nil { // nothing was asked for before
		return nil, errors.Join(b.explain(name, err), o.Close())
	}
	return o, nil
}

// List is Store.
func (b *bucket) List(ctx context.Context, prefix string) ([]Object, error) {
	var out []Object
	for o := range b.client.ListObjectsIter(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, b.explain(prefix, o.Err)
		}
		if name := strings.TrimPrefix(o.Key, b.prefix); checkName(name) == nil {
			out = append(out, Object{name, o.Size})
		}
	}
	return out, ctx.Err()
}

// Delete is Store.
func (b *bucket) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return b.explain(name, b.client.RemoveObject(ctx, b.bucket, b.prefix+name, minio.RemoveObjectOptions{}))
}

// explain says what an error is about.
func (b *bucket) explain(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case minio.ToErrorResponse(err).Code == minio.NoSuchKey:
		return fmt.Errorf("%s%s: %w", b, name, ErrNotFound)
	}
	return fmt.Errorf("%s%s: %w", b, name, err)
}
