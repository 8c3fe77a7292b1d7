// Package plugins are the scheduler's built-in plugins: kube-scheduler's, with its names, its arguments, its
// arithmetic and its words. Table lists them; there is no registration.
//
// Each plugin is a file: what it filters and how it scores, and, as Hints, which changes in the cluster may lift its
// rejection. Filter and Score neither allocate nor build maps for a node that fits: what depends on the pod alone is
// worked out in PreFilter and PreScore, what depends on the node alone is in its NodeInfo, and what depends on the
// pods of other nodes comes from the snapshot's index.
//
// # Concurrency
//
// A plugin does not change after it was made. What it learns about a pod lives in the attempt's CycleState.
package plugins
