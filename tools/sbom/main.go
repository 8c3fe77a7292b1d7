// Command sbom prints a software bill of materials of a Go binary, in CycloneDX's JSON: what it was built from, as the binary
// itself says.
//
//	sbom VERSION BINARY
package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: sbom VERSION BINARY")
	}
	info, err := buildinfo.ReadFile(args[1])
	if err != nil {
		return err
	}
	bom := cyclonedx.NewBOM()
	main := component(&info.Main, cyclonedx.ComponentTypeApplication)
	main.Version, main.PackageURL, main.BOMRef = args[0], purl(info.Main.Path, args[0]), purl(info.Main.Path, args[0])
	main.Properties = settings(info)
	bom.Metadata = &cyclonedx.Metadata{Component: &main}

	std := component(&debug.Module{Path: "std", Version: info.GoVersion}, cyclonedx.ComponentTypeLibrary)
	components, refs := []cyclonedx.Component{std}, []string{std.BOMRef}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		c := component(dep, cyclonedx.ComponentTypeLibrary)
		components, refs = append(components, c), append(refs, c.BOMRef)
	}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	return cyclonedx.NewBOMEncoder(os.Stdout, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

func purl(path, version string) string {
	if version == "" {
		return "pkg:golang/" + path
	}
	return "pkg:golang/" + path + "@" + version
}

func component(m *debug.Module, kind cyclonedx.ComponentType) cyclonedx.Component {
	ref := purl(m.Path, m.Version)
	c := cyclonedx.Component{Type: kind, Name: m.Path, Version: m.Version, BOMRef: ref, PackageURL: ref}
	// go.sum's h1: is a SHA-256 over the files of the module.
	if sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:")); err == nil && len(sum) == 32 {
		c.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
	}
	return c
}

// settings are how the binary was built.
func settings(info *debug.BuildInfo) *[]cyclonedx.Property {
	var out []cyclonedx.Property
	for _, s := range info.Settings {
		if s.Key != "-ldflags" {
			out = append(out, cyclonedx.Property{Name: "build:" + s.Key, Value: s.Value})
		}
	}
	return &out
}
