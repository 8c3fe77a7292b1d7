//go:build !linux

package images

import "io/fs"

// identity tells which file it is, and whether it has several names.
func identity(fs.FileInfo) (fileID, bool) { return fileID{}, false }

// attributes are the extended attributes of a file that go into an image.
func attributes(string, fs.FileInfo) (map[string]string, error) { return nil, nil }
