"""The Node Resource Interface: plugins that watch and adjust pods and containers, and how ocid speaks with them."""
