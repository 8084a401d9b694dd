# Finds headers and libraries of the system's packages and names all that is missing at once.
# By file and not by package: the packages' CMake names differ between versions.

set(SIM_STREAM_MISSING "")

# Sets NAME_INCLUDE, and NAME_LIBRARY after LIBRARY.
function(sim_stream_require name header package)
  cmake_parse_arguments(PARSE_ARGV 3 arg "" "LIBRARY" "")
  find_path(${name}_INCLUDE ${header})
  if(arg_LIBRARY)
    find_library(${name}_LIBRARY ${arg_LIBRARY})
  endif()
  if(NOT ${name}_INCLUDE OR (arg_LIBRARY AND NOT ${name}_LIBRARY))
    list(APPEND SIM_STREAM_MISSING "${package} (${header})")
    set(SIM_STREAM_MISSING "${SIM_STREAM_MISSING}" PARENT_SCOPE)
  endif()
endfunction()

function(sim_stream_stop_if_missing)
  if(SIM_STREAM_MISSING)
    list(JOIN SIM_STREAM_MISSING ", " missing)
    message(FATAL_ERROR
      "sim_stream's C++ client needs packages that are not here: ${missing}\n"
      "Debian and Ubuntu: apt-get install libzmq3-dev cppzmq-dev libmsgpack-cxx-dev doctest-dev\n"
      "(doctest-dev for the tests only: -DSIM_STREAM_TESTS=OFF leaves them out)")
  endif()
endfunction()
