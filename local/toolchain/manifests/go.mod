module modelserve/toolchain/manifests

go 1.26

require (
	github.com/envoyproxy/gateway v1.2.8
	github.com/fluid-cloudnative/fluid v1.0.8
	github.com/prometheus-operator/prometheus-operator v0.82.0
	sigs.k8s.io/gateway-api v1.2.1
)
