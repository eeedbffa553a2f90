//go:build tools

// Package tools names the programs that the cluster harness builds, so that go.mod pins them.
package tools

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
