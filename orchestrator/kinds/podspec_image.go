package kinds

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// The grammar of a reference to an image: [domain/]path[:tag][@digest].
const (
	domainLabel   = `(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])`
	domainPattern = `(?:` + domainLabel + `(?:\.` + domainLabel + `)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?`
	pathComponent = `[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*`
	tagPattern    = `\w[\w.-]{0,127}`
	digestPattern = `[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}`
	maxImageName  = 255
)

var (
	imagePattern   = regexp.MustCompile(`^((?:` + domainPattern + `/)?` + pathComponent + `(?:/` + pathComponent + `)*)(?::(` + tagPattern + `))?(?:@(` + digestPattern + `))?$`)
	bareIdentifier = regexp.MustCompile(`^[a-f0-9]{64}$`)
)

// digestLength is how many hexadecimal digits a digest of an algorithm has.
var digestLength = map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}

// tagOf is the tag of an image, "latest" if it has neither tag nor digest, "" if it has only a digest or is not well-formed.
func tagOf(image string) string {
	if bareIdentifier.MatchString(image) {
		return ""
	}
	m := imagePattern.FindStringSubmatch(withDomain(image))
	if m == nil || len(m[1]) > maxImageName {
		return ""
	}
	tag, digest := m[2], m[3]
	if digest == "" {
		if tag == "" {
			return "latest"
		}
		return tag
	}
	algorithm, hex, _ := strings.Cut(digest, ":")
	if len(hex) != digestLength[algorithm] || strings.ToLower(hex) != hex {
		return ""
	}
	return tag
}

// withDomain puts the default registry in front of an image that names none.
func withDomain(image string) string {
	first, _, found := strings.Cut(image, "/")
	if found && (strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first) {
		return image
	}
	return "docker.io/" + image
}

// pullPolicy is how an image is pulled if nobody says how.
func pullPolicy(image string) corev1.PullPolicy {
	if tagOf(image) == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}
