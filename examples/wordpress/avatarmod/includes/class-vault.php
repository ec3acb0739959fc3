<?php
/**
 * Takes the files of a blocked picture away from where browsers find them, and puts them back.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** A folder below the uploads that no web server serves, with names that nobody guesses. */
final class Vault {

	private const FOLDER = 'avatarmod-blocked';

	/** Hide a picture; what is hidden already stays so. */
	public static function hide( Record $record, ?Picture $picture ): void {
		foreach ( null === $picture ? array() : $picture->files() as $name ) {
			$from = path_join( wp_get_upload_dir()['basedir'], $name );
			$file = bin2hex( random_bytes( 16 ) );
			if ( is_file( $from ) && self::move( $from, self::folder() . $file ) ) {
				$record->hidden[ $name ] = $file;
			}
		}
	}

	/** Put everything back whose place is still free. */
	public static function restore( Record $record ): void {
		foreach ( $record->hidden as $name => $file ) {
			$to   = path_join( wp_get_upload_dir()['basedir'], $name );
			$from = self::folder() . $file;
			if ( ! is_file( $from ) || ( ! file_exists( $to ) && self::move( $from, $to ) ) ) {
				unset( $record->hidden[ $name ] );
			}
		}
	}

	/** Delete what is hidden of somebody. */
	public static function empty_of( Record $record ): void {
		foreach ( $record->hidden as $file ) {
			wp_delete_file( self::folder() . $file );
		}
		$record->hidden = array();
	}

	/** The folder, made safe the first time. */
	public static function folder(): string {
		$folder = trailingslashit( path_join( wp_get_upload_dir()['basedir'], self::FOLDER ) );
		if ( ! is_dir( $folder ) && wp_mkdir_p( $folder ) ) {
			// phpcs:disable WordPress.WP.AlternativeFunctions -- Before anything lies in it.
			file_put_contents( $folder . 'index.php', "<?php\n// Silence is golden.\n" );
			file_put_contents( $folder . '.htaccess', "Require all denied\n" );
			// phpcs:enable
		}
		return $folder;
	}

	/** Move a file; the time of its last change stays. */
	private static function move( string $from, string $to ): bool {
		return wp_mkdir_p( dirname( $to ) ) && @rename( $from, $to ); // phpcs:ignore
	}
}
