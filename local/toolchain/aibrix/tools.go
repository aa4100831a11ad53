//go:build tools

package tools

import _ "github.com/vllm-project/aibrix/cmd/controllers"
