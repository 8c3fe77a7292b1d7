// Package examples applies the manifests of the folder examples of this repository to a real node, as their README says, and looks
// whether they do what they say.
//
// # Concurrency
//
// The examples are in one namespace each, and run at the same time, except that those with ports of the node are apart.
package examples
