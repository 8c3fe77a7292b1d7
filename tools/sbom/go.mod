// The tool that lists what a release is made of, apart from the product's go.mod so that it does not enter it.
module github.com/keelson-io/keelson/tools/sbom

go 1.26.0

require github.com/CycloneDX/cyclonedx-go v0.12.0
