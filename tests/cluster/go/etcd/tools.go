//go:build tools

// Package tools names the programs that the cluster harness builds, so that go.mod pins them.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
)
