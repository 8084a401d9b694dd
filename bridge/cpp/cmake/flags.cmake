# Warnings and sanitizers of our own targets; users of the library get neither.

option(SIM_STREAM_WERROR "Treat warnings as errors" OFF)
set(SIM_STREAM_SANITIZE "" CACHE STRING
  "Sanitizers to build with, such as address,undefined; empty for none")

function(sim_stream_flags target)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast
    -Wnon-virtual-dtor -Woverloaded-virtual $<$<BOOL:${SIM_STREAM_WERROR}>:-Werror>)
  if(SIM_STREAM_SANITIZE)
    target_compile_options(${target} PRIVATE
      -fsanitize=${SIM_STREAM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
    target_link_options(${target} PUBLIC -fsanitize=${SIM_STREAM_SANITIZE})
  endif()
endfunction()
